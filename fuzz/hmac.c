
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The HMAC over a body in pieces is OpenSSL's over the whole of it, and a
 * body whose file is shorter than it should be has none.  The first byte is
 * the length of the secret, which comes next.
 */


#include "fuzz.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>


static ngx_http_asana_hook_hmac_t *
fuzz_hmac(void)
{
    /* live as long as the process, as the configuration does */

    static ngx_pool_t                  *pool;
    static ngx_http_asana_hook_hmac_t  *hmac;

    if (hmac == NULL) {
        pool = fuzz_pool();
        hmac = ngx_http_asana_hook_hmac_create(pool, pool->log);
        check(hmac);
    }

    return hmac;
}


/* as the pieces were, they are still */

static void
fuzz_unchanged(ngx_chain_t *cl, ngx_str_t *body)
{
    off_t  pos;

    for (pos = 0; cl; cl = cl->next) {

        if (cl->buf->in_file) {
            check(cl->buf->file_pos == pos);

        } else {
            check(cl->buf->pos == cl->buf->start);
            check(cl->buf->last == cl->buf->end);
            check(memcmp(cl->buf->pos, body->data + pos,
                         cl->buf->last - cl->buf->pos)
                  == 0);
        }

        pos += ngx_buf_size(cl->buf);
    }

    check(pos == (off_t) body->len);
}


static void
fuzz_short_file(ngx_chain_t *cl, u_char *secret, size_t len, ngx_pool_t *pool)
{
    u_char  mac[NGX_HTTP_ASANA_HOOK_MAC_LEN];

    for ( /* void */ ; cl->next; cl = cl->next) { /* void */ }

    if (!cl->buf->in_file) {
        return;
    }

    cl->buf->file_last++;

    check(ngx_http_asana_hook_hmac(fuzz_hmac(), secret, len, cl, pool, mac)
          == NGX_ERROR);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char         *secret, want[EVP_MAX_MD_SIZE];
    u_char          mac[NGX_HTTP_ASANA_HOOK_MAC_LEN];
    u_char          id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    size_t          len;
    ngx_str_t       body;
    ngx_pool_t     *pool;
    ngx_chain_t    *cl;
    unsigned int    n;

    if (size == 0) {
        return 0;
    }

    pool = fuzz_pool();

    len = ngx_min(data[0], size - 1);
    secret = fuzz_copy(pool, data + 1, len);

    cl = fuzz_chain(pool, data + 1 + len, size - 1 - len, &body);

    check(ngx_http_asana_hook_hmac(fuzz_hmac(), secret, len, cl, pool, mac)
          == NGX_OK);
    check(HMAC(EVP_sha256(), secret, len, body.data, body.len, want, &n));
    check(n == sizeof(mac) && memcmp(mac, want, n) == 0);

    fuzz_unchanged(cl, &body);

    check(ngx_http_asana_hook_secret_id(secret, len, id) == NGX_OK);
    check(SHA256(secret, len, want));
    check(memcmp(id, want, sizeof(id)) == 0);

    fuzz_short_file(cl, secret, len, pool);

    ngx_destroy_pool(pool);

    return 0;
}
