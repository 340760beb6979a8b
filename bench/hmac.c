
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * What an HMAC-SHA256 of so many bytes costs (1024) by each interface of
 * OpenSSL; and what a byte costs of memory that the processor's cache does not
 * hold, fetched ahead or not.  The last word of a line is nanoseconds, and with
 * "--cold" there is but one: an HMAC of a body that is in memory alone.
 *
 *     cc -O2 -o build/bench-hmac bench/hmac.c -lcrypto
 *     build/bench-hmac 1024
 */


#define OPENSSL_SUPPRESS_DEPRECATED

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>


#define ROUNDS  100000
#define FAR     (64 << 20)
#define BLOCK   1024


typedef void (*hmac_pt)(unsigned char *body, size_t size);


static unsigned char   key[SHA256_CBLOCK], mac[EVP_MAX_MD_SIZE];
static EVP_MAC_CTX    *evp;
static HMAC_CTX       *ctx;


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1e9 + ts.tv_nsec;
}


static void
check(int ok)
{
    if (!ok) {
        exit(1);
    }
}


static void
evp_mac(unsigned char *body, size_t size)
{
    size_t  n;

    check(EVP_MAC_init(evp, key, sizeof(key), NULL));
    check(EVP_MAC_update(evp, body, size));
    check(EVP_MAC_final(evp, mac, &n, sizeof(mac)));
}


static void
evp_mac_kept(unsigned char *body, size_t size)
{
    size_t  n;

    check(EVP_MAC_init(evp, NULL, 0, NULL));
    check(EVP_MAC_update(evp, body, size));
    check(EVP_MAC_final(evp, mac, &n, sizeof(mac)));
}


static void
hmac_init(unsigned char *body, size_t size)
{
    unsigned int  n;

    check(HMAC_Init_ex(ctx, key, sizeof(key), EVP_sha256(), NULL));
    check(HMAC_Update(ctx, body, size));
    check(HMAC_Final(ctx, mac, &n));
}


static void
hmac_init_kept(unsigned char *body, size_t size)
{
    unsigned int  n;

    check(HMAC_Init_ex(ctx, NULL, 0, NULL, NULL));
    check(HMAC_Update(ctx, body, size));
    check(HMAC_Final(ctx, mac, &n));
}


/* as the module does it */

static void
sha256(unsigned char *body, size_t size)
{
    int            i;
    size_t         n, step;
    SHA256_CTX     sha;
    unsigned char  inner[SHA256_CBLOCK];
    unsigned char  outer[SHA256_CBLOCK + SHA256_DIGEST_LENGTH];

    for (i = 0; i < SHA256_CBLOCK; i++) {
        inner[i] = key[i] ^ 0x36;
        outer[i] = key[i] ^ 0x5c;
    }

    check(SHA256_Init(&sha) && SHA256_Update(&sha, inner, sizeof(inner)));

    for (n = 0; n < size; n += step) {
        step = (size - n < BLOCK) ? size - n : BLOCK;

        for (i = 0; i < BLOCK; i += 64) {
            __builtin_prefetch(body + n + BLOCK + i);
        }

        check(SHA256_Update(&sha, body + n, step));
    }

    check(SHA256_Final(outer + SHA256_CBLOCK, &sha));
    check(SHA256_Init(&sha) && SHA256_Update(&sha, outer, sizeof(outer)));
    check(SHA256_Final(mac, &sha));
}


static double
timed(hmac_pt hmac, unsigned char *body, size_t size)
{
    int     i, rounds;
    double  start;

    rounds = 1 + (int) ((double) ROUNDS * 1024 / (size + 1024));

    hmac(body, size);

    start = now();

    for (i = 0; i < rounds; i++) {
        hmac(body, size);
    }

    return (now() - start) / rounds;
}


/* each body lies behind the last one, in memory that was not read since long */

static double
cold(unsigned char *body, size_t size)
{
    int     rounds;
    size_t  n;
    double  start;

    rounds = 0;
    start = now();

    for (n = 0; n + size <= FAR; n += size) {
        sha256(body + n, size);
        rounds++;
    }

    return (now() - start) / rounds;
}


static double
far(unsigned char *body, int ahead)
{
    size_t      i, n;
    double      start;
    SHA256_CTX  sha;

    check(SHA256_Init(&sha));

    start = now();

    for (n = 0; n < FAR; n += BLOCK) {

        for (i = 0; ahead && i < BLOCK; i += 64) {
            __builtin_prefetch(body + n + BLOCK + i);
        }

        check(SHA256_Update(&sha, body + n, BLOCK));
    }

    return (now() - start) / FAR;
}


int
main(int argc, char **argv)
{
    int             one;
    size_t          size;
    OSSL_PARAM      params[2];
    unsigned char  *body;

    one = (argc == 3 && strcmp(argv[1], "--cold") == 0);
    size = (argc > 1) ? (size_t) atol(argv[argc - 1]) : 1024;
    body = malloc(FAR + BLOCK);
    ctx = HMAC_CTX_new();
    evp = EVP_MAC_CTX_new(EVP_MAC_fetch(NULL, "HMAC", NULL));

    check(size && size <= FAR && body && ctx && evp);

    memset(body, 'x', FAR + BLOCK);
    memset(key, 'k', sizeof(key));

    if (one) {
        printf("%.0f\n", cold(body, size));
        return 0;
    }

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
                                                 (char *) "SHA256", 0);
    params[1] = OSSL_PARAM_construct_end();

    check(EVP_MAC_CTX_set_params(evp, params));

    printf("%zu bytes\n", size);
    printf("  EVP_MAC_init()               %9.0f\n",
           timed(evp_mac, body, size));
    printf("  EVP_MAC_init(), kept key     %9.0f\n",
           timed(evp_mac_kept, body, size));
    printf("  HMAC_Init_ex()               %9.0f\n",
           timed(hmac_init, body, size));
    printf("  HMAC_Init_ex(), kept key     %9.0f\n",
           timed(hmac_init_kept, body, size));
    printf("  SHA256_Init()                %9.0f\n", timed(sha256, body, size));
    printf("  the same, memory alone       %9.0f\n", cold(body, size));
    printf("a byte of %d MB                %9.2f\n", FAR >> 20, far(body, 0));
    printf("  fetched ahead                %9.2f\n", far(body, 1));

    return 0;
}
