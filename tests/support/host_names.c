/* Preloaded: looks the name $HOST_NAMED up in the file $HOST_NAMES, and leaves all other names to the system.
   The file holds the seconds that an answer takes, then the addresses, of which each look-up gets the next one; a name
   without any is not resolved. No file can be put in place of /etc/hosts for a few processes alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int look_up(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *restrict node, const char *restrict service, const struct addrinfo *restrict hints,
                struct addrinfo **restrict found) {
    static atomic_uint looks;
    char address[8][64];
    double seconds = 0;
    int count = 0;
    look_up *system = (look_up *)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *named = getenv("HOST_NAMED"), *path = getenv("HOST_NAMES");
    if (!node || !named || !path || strcmp(node, named)) return system(node, service, hints, found);
    FILE *file = fopen(path, "re");
    if (!file) return EAI_AGAIN;
    if (fscanf(file, "%lf", &seconds) == 1)
        while (count < 8 && fscanf(file, "%63s", address[count]) == 1) count++;
    fclose(file);
    usleep((useconds_t)(seconds * 1e6));
    if (!count) return EAI_AGAIN;
    return system(address[atomic_fetch_add(&looks, 1) % count], service, hints, found);
}
