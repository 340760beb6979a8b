
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The HMAC over a body in pieces is OpenSSL's over the whole of it, and a
 * body whose file is shorter than it should be has none.  The first byte is
 * the length of the secret, which comes next.
 */


#include "ngx_asana_hmac.h"
#include "fuzz.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>


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
fuzz_short_file(ngx_chain_t *cl, ngx_asana_secret_t *s, ngx_pool_t *pool)
{
    u_char  mac[NGX_ASANA_MAC_LEN];

    for ( /* void */ ; cl->next; cl = cl->next) { /* void */ }

    if (!cl->buf->in_file) {
        return;
    }

    cl->buf->file_last++;

    check(ngx_asana_hmac(s, cl, pool, mac) == NGX_ERROR);

    cl->buf->file_last--;
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char               want[EVP_MAX_MD_SIZE];
    u_char               mac[NGX_ASANA_MAC_LEN];
    size_t               len;
    ngx_str_t            body;
    ngx_pool_t          *pool;
    ngx_uint_t           i;
    ngx_chain_t         *cl;
    unsigned int         n;
    ngx_asana_secret_t  *s;

    if (size == 0) {
        return 0;
    }

    pool = fuzz_pool();

    len = ngx_min(data[0], size - 1);

    s = ngx_pcalloc(pool, ngx_asana_secret_size(len));
    check(s);

    s->len = (u_char) len;
    ngx_memcpy(s->data, data + 1, len);

    ngx_asana_hmac_id(s->data, len, s->id);
    check(SHA256(s->data, len, want));
    check(memcmp(s->id, want, sizeof(s->id)) == 0);

    cl = fuzz_chain(pool, data + 1 + len, size - 1 - len, &body);

    check(HMAC(EVP_sha256(), s->data, len, body.data, body.len, want, &n));

    check(ngx_asana_hmac(s, cl, pool, mac) == NGX_OK);
    check(n == sizeof(mac) && memcmp(mac, want, n) == 0);
    check(ngx_asana_hmac_equal(mac, want));

    for (i = 0; i < sizeof(mac); i++) {
        want[i] ^= 1 << i % 8;
        check(!ngx_asana_hmac_equal(mac, want));
        want[i] ^= 1 << i % 8;
    }

    fuzz_unchanged(cl, &body);
    fuzz_short_file(cl, s, pool);

    ngx_destroy_pool(pool);

    return 0;
}
