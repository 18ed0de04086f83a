# One image for every part of Backburner. The command selects the part, as in docker-compose.yml. Health checks depend on
# the part, so they are also there. The image contains no settings and no secrets.
ARG PYTHON_IMAGE=python:3.13-slim@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/backburner
ENV PATH=/opt/backburner/bin:$PATH
WORKDIR /source
COPY requirements/run.txt requirements/
RUN pip install --require-hashes --requirement requirements/run.txt
COPY . .
RUN pip install --no-deps --no-build-isolation .

FROM ${PYTHON_IMAGE}
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/backburner --shell /usr/sbin/nologin backburner \
    && install --directory --owner backburner --group backburner --mode 0700 /var/lib/backburner
COPY --from=build /opt/backburner /opt/backburner
ENV PATH=/opt/backburner/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    BACKBURNER_DATA_DIR=/var/lib/backburner
WORKDIR /var/lib/backburner
USER 10001:10001
EXPOSE 8000
CMD ["uvicorn", "--factory", "api.main:create_app", "--http=api.http_protocol:Protocol", "--host=0.0.0.0", "--port=8000", "--no-access-log", "--timeout-graceful-shutdown=5", "--timeout-keep-alive=75"]
