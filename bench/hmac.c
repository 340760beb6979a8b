
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * What an HMAC-SHA256 of so many bytes costs (1024), with a key that is derived
 * anew, with one that is kept, and of SHA-256 alone; and what a byte costs of
 * memory that the processor's cache does not hold, fetched ahead or not.
 *
 *     cc -O2 -o build/bench-hmac bench/hmac.c -lcrypto
 *     build/bench-hmac 1024
 */


#include <openssl/core_names.h>
#include <openssl/evp.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>


#define ROUNDS  200000
#define FAR     (64 << 20)
#define BLOCK   1024


static unsigned char  key[64], mac[64];


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1e9 + ts.tv_nsec;
}


static double
hmac(EVP_MAC_CTX *ctx, unsigned char *body, size_t size, int kept)
{
    int     i;
    double  start;
    size_t  len;

    start = now();

    for (i = 0; i < ROUNDS; i++) {
        if (!EVP_MAC_init(ctx, kept ? NULL : key, kept ? 0 : sizeof(key), NULL)
            || !EVP_MAC_update(ctx, body, size)
            || !EVP_MAC_final(ctx, mac, &len, sizeof(mac)))
        {
            exit(1);
        }
    }

    return (now() - start) / ROUNDS;
}


static double
digest(EVP_MD_CTX *ctx, unsigned char *body, size_t size)
{
    int           i;
    double        start;
    unsigned int  len;

    start = now();

    for (i = 0; i < ROUNDS; i++) {
        if (!EVP_DigestInit_ex(ctx, EVP_sha256(), NULL)
            || !EVP_DigestUpdate(ctx, body, size)
            || !EVP_DigestFinal_ex(ctx, mac, &len))
        {
            exit(1);
        }
    }

    return (now() - start) / ROUNDS;
}


static double
far(EVP_MAC_CTX *ctx, unsigned char *body, int ahead)
{
    size_t  i, n;
    double  start;

    start = now();

    for (n = 0; n < FAR; n += BLOCK) {

        for (i = 0; ahead && i < BLOCK; i += 64) {
            __builtin_prefetch(body + n + BLOCK + i);
        }

        if (!EVP_MAC_update(ctx, body + n, BLOCK)) {
            exit(1);
        }
    }

    return (now() - start) / FAR;
}


int
main(int argc, char **argv)
{
    size_t          size;
    EVP_MAC        *type;
    OSSL_PARAM      params[2];
    EVP_MD_CTX     *md;
    EVP_MAC_CTX    *ctx;
    unsigned char  *body;

    size = (argc > 1) ? (size_t) atol(argv[1]) : 1024;
    body = malloc(FAR + BLOCK);
    type = EVP_MAC_fetch(NULL, "HMAC", NULL);

    if (size == 0 || size > FAR || body == NULL || type == NULL) {
        return 1;
    }

    memset(body, 'x', FAR + BLOCK);
    memset(key, 'k', sizeof(key));

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
                                                 (char *) "SHA256", 0);
    params[1] = OSSL_PARAM_construct_end();

    md = EVP_MD_CTX_new();
    ctx = EVP_MAC_CTX_new(type);

    if (md == NULL || ctx == NULL || !EVP_MAC_CTX_set_params(ctx, params)) {
        return 1;
    }

    hmac(ctx, body, size, 0);

    printf("%zu bytes: HMAC with a new key %.0f ns, ", size,
           hmac(ctx, body, size, 0));
    printf("with one that is kept %.0f ns, ", hmac(ctx, body, size, 1));
    printf("SHA-256 %.0f ns\n", digest(md, body, size));

    printf("a byte of %d MB: %.2f ns, ", FAR >> 20, far(ctx, body, 0));
    printf("fetched ahead %.2f ns\n", far(ctx, body, 1));

    return 0;
}
