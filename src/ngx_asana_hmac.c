
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_hmac.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>


#define NGX_ASANA_HMAC_READ_SIZE  32768

/* bytes that are hashed while the next ones are fetched */
#define NGX_ASANA_HMAC_BLOCK      1024

/* secrets whose HMAC keys are kept ready: by the first byte of their id */
#define NGX_ASANA_HMAC_KEYS       256


#if (__GNUC__)
#define ngx_asana_hmac_prefetch(p)  __builtin_prefetch(p)
#else
#define ngx_asana_hmac_prefetch(p)
#endif


typedef struct {
    EVP_MAC_CTX           *ctx;
    size_t                 len;       /* of the secret; 0: it is not ready */
    u_char                 secret[NGX_ASANA_MAX_SECRET];
} ngx_asana_hmac_key_t;


struct ngx_asana_hmac_s {
    EVP_MAC               *mac;
    uint64_t               version;
    time_t                 forgot;
    ngx_asana_hmac_key_t   keys[NGX_ASANA_HMAC_KEYS];
};


/* NGX_OK: go on, NGX_DONE: enough was seen, NGX_ERROR */

typedef ngx_int_t (*ngx_asana_hmac_piece_pt)(void *data, u_char *p,
    size_t len);


static EVP_MAC_CTX *ngx_asana_hmac_start(ngx_asana_hmac_t *hmac,
    ngx_asana_secret_t *s);
static EVP_MAC_CTX *ngx_asana_hmac_ctx(ngx_asana_hmac_t *hmac);
static void ngx_asana_hmac_forget(ngx_asana_hmac_t *hmac);
static void ngx_asana_hmac_cleanup(void *data);
static ngx_int_t ngx_asana_hmac_walk(ngx_chain_t *body, ngx_pool_t *pool,
    ngx_asana_hmac_piece_pt piece, void *data);
static ngx_int_t ngx_asana_hmac_walk_file(ngx_buf_t *b, ngx_pool_t *pool,
    ngx_asana_hmac_piece_pt piece, void *data);
static ngx_int_t ngx_asana_hmac_piece(void *data, u_char *p, size_t len);
static ngx_int_t ngx_asana_hmac_scan_piece(void *data, u_char *p, size_t len);


/* the tokens of a heartbeat; a space stands for any white space */

static u_char  ngx_asana_hmac_empty[] = " { \"events\" : [ ] } ";


ngx_asana_hmac_t *
ngx_asana_hmac_create(ngx_pool_t *pool, ngx_log_t *log)
{
    ngx_asana_hmac_t    *hmac;
    ngx_pool_cleanup_t  *cln;

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_asana_hmac_t));
    if (cln == NULL) {
        return NULL;
    }

    hmac = cln->data;
    ngx_memzero(hmac, sizeof(ngx_asana_hmac_t));

    cln->handler = ngx_asana_hmac_cleanup;

    hmac->mac = EVP_MAC_fetch(NULL, "HMAC", NULL);

    if (hmac->mac) {
        hmac->keys[0].ctx = ngx_asana_hmac_ctx(hmac);
    }

    if (hmac->keys[0].ctx == NULL) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: OpenSSL has no HMAC-SHA256");
        return NULL;
    }

    return hmac;
}


static void
ngx_asana_hmac_cleanup(void *data)
{
    ngx_asana_hmac_t  *hmac = data;

    ngx_asana_hmac_forget(hmac);

    EVP_MAC_free(hmac->mac);
}


ngx_int_t
ngx_asana_hmac(ngx_asana_hmac_t *hmac, ngx_asana_secret_t *s,
    uint64_t version, ngx_chain_t *body, ngx_pool_t *pool, u_char *mac)
{
    size_t        size;
    EVP_MAC_CTX  *ctx;

    /* one of them may have been revoked; not at each of many handshakes */

    if (hmac->version != version && hmac->forgot != ngx_time()) {
        ngx_asana_hmac_forget(hmac);
        hmac->version = version;
        hmac->forgot = ngx_time();
    }

    ctx = ngx_asana_hmac_start(hmac, s);

    if (ctx == NULL
        || ngx_asana_hmac_walk(body, pool, ngx_asana_hmac_piece, ctx) != NGX_OK
        || !EVP_MAC_final(ctx, mac, &size, NGX_ASANA_MAC_LEN)
        || size != NGX_ASANA_MAC_LEN)
    {
        ngx_log_error(NGX_LOG_CRIT, pool->log, 0,
                      "asana_hook: computing the HMAC of the body failed");
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * To derive the key anew for each body would cost a quarter of the SHA-256 of
 * a small one.
 */

static EVP_MAC_CTX *
ngx_asana_hmac_start(ngx_asana_hmac_t *hmac, ngx_asana_secret_t *s)
{
    ngx_asana_hmac_key_t  *key;

    key = &hmac->keys[s->id[0]];

    if (key->len
        && key->len == s->len
        && ngx_memcmp(key->secret, s->data, s->len) == 0)
    {
        return EVP_MAC_init(key->ctx, NULL, 0, NULL) ? key->ctx : NULL;
    }

    key->len = 0;

    if (key->ctx == NULL) {
        key->ctx = ngx_asana_hmac_ctx(hmac);
        if (key->ctx == NULL) {
            return NULL;
        }
    }

    if (!EVP_MAC_init(key->ctx, s->data, s->len, NULL)) {
        return NULL;
    }

    /* before 3.0.3 a context cannot be started again with the key it has */

    if (OpenSSL_version_num() >= 0x30000030L) {
        ngx_memcpy(key->secret, s->data, s->len);
        key->len = s->len;
    }

    return key->ctx;
}


static EVP_MAC_CTX *
ngx_asana_hmac_ctx(ngx_asana_hmac_t *hmac)
{
    OSSL_PARAM    params[2];
    EVP_MAC_CTX  *ctx;

    ctx = EVP_MAC_CTX_new(hmac->mac);
    if (ctx == NULL) {
        return NULL;
    }

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
                                                 (char *) "SHA256", 0);
    params[1] = OSSL_PARAM_construct_end();

    if (!EVP_MAC_CTX_set_params(ctx, params)) {
        EVP_MAC_CTX_free(ctx);
        return NULL;
    }

    return ctx;
}


static void
ngx_asana_hmac_forget(ngx_asana_hmac_t *hmac)
{
    ngx_uint_t             i;
    ngx_asana_hmac_key_t  *key;

    for (i = 0; i < NGX_ASANA_HMAC_KEYS; i++) {
        key = &hmac->keys[i];

        if (key->ctx) {
            EVP_MAC_CTX_free(key->ctx);
            ngx_explicit_memzero(key, sizeof(ngx_asana_hmac_key_t));
        }
    }
}


static ngx_int_t
ngx_asana_hmac_piece(void *data, u_char *p, size_t len)
{
    EVP_MAC_CTX *ctx = data;

    size_t      n;
    ngx_uint_t  i;

    /*
     * A large body has left the processor's cache; what is hashed next is
     * fetched meanwhile, which the processor does not do well by itself.
     */

    for ( /* void */ ; len; p += n, len -= n) {

        n = ngx_min(len, NGX_ASANA_HMAC_BLOCK);

        for (i = n; i < ngx_min(len, 2 * NGX_ASANA_HMAC_BLOCK); i += 64) {
            ngx_asana_hmac_prefetch(p + i);
        }

        if (!EVP_MAC_update(ctx, p, n)) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_asana_hmac_walk(ngx_chain_t *body, ngx_pool_t *pool,
    ngx_asana_hmac_piece_pt piece, void *data)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = body; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            rc = piece(data, b->pos, b->last - b->pos);

        } else if (b->in_file) {
            rc = ngx_asana_hmac_walk_file(b, pool, piece, data);

        } else {
            rc = NGX_OK;
        }

        if (rc != NGX_OK) {
            return (rc == NGX_DONE) ? NGX_OK : rc;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_asana_hmac_walk_file(ngx_buf_t *b, ngx_pool_t *pool,
    ngx_asana_hmac_piece_pt piece, void *data)
{
    off_t       offset;
    size_t      size;
    u_char     *p;
    ssize_t     n;
    ngx_int_t   rc;

    p = ngx_palloc(pool, NGX_ASANA_HMAC_READ_SIZE);
    if (p == NULL) {
        return NGX_ERROR;
    }

    rc = NGX_OK;

    for (offset = b->file_pos; offset < b->file_last; offset += n) {

        size = (size_t) ngx_min(b->file_last - offset,
                                NGX_ASANA_HMAC_READ_SIZE);

        n = ngx_read_file(b->file, p, size, offset);

        if (n <= 0) {
            ngx_log_error(NGX_LOG_CRIT, pool->log, 0,
                          "asana_hook: the body in \"%V\" ends at %O of %O",
                          &b->file->name, offset, b->file_last);
            rc = NGX_ERROR;
            break;
        }

        rc = piece(data, p, n);

        if (rc != NGX_OK) {
            break;
        }
    }

    (void) ngx_pfree(pool, p);

    return rc;
}


ngx_int_t
ngx_asana_hmac_id(u_char *secret, size_t len, u_char *id)
{
    u_char        digest[EVP_MAX_MD_SIZE];
    unsigned int  size;

    if (!EVP_Digest(secret, len, digest, &size, EVP_sha256(), NULL)) {
        return NGX_ERROR;
    }

    ngx_memcpy(id, digest, NGX_ASANA_ID_LEN);
    ngx_explicit_memzero(digest, EVP_MAX_MD_SIZE);

    return NGX_OK;
}


/*
 * The value of a character that is a hex digit: ngx_hextoi() for each byte,
 * called through the table of the dynamic linker, would cost twice that.
 */

#define ngx_asana_hmac_hex(ch)  (((ch) & 0xf) + 9 * ((ch) >> 6))


ngx_int_t
ngx_asana_hmac_parse(ngx_str_t *value, u_char *mac)
{
    u_char      *p, bad;
    ngx_uint_t   i;

    if (value->len != 2 * NGX_ASANA_MAC_LEN) {
        return NGX_DECLINED;
    }

    bad = 0;
    p = value->data;

    for (i = 0; i < 2 * NGX_ASANA_MAC_LEN; i++) {
        bad |= ((u_char) (p[i] - '0') > 9)
               & ((u_char) ((p[i] | 0x20) - 'a') > 5);
    }

    if (bad) {
        return NGX_DECLINED;
    }

    for (i = 0; i < NGX_ASANA_MAC_LEN; i++) {
        mac[i] = (u_char) (ngx_asana_hmac_hex(p[2 * i]) << 4
                           | ngx_asana_hmac_hex(p[2 * i + 1]));
    }

    return NGX_OK;
}


ngx_int_t
ngx_asana_hmac_heartbeat(ngx_chain_t *body, ngx_pool_t *pool)
{
    u_char  *want;

    want = ngx_asana_hmac_empty;

    if (ngx_asana_hmac_walk(body, pool, ngx_asana_hmac_scan_piece, &want)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* all tokens were met, and nothing but white space behind them */

    return (want && want[1] == '\0') ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_asana_hmac_scan_piece(void *data, u_char *p, size_t len)
{
    u_char **want = data;

    u_char  *last;

    for (last = p + len; p < last; p++) {

        if (**want == ' ') {

            if (*p == ' ' || *p == '\t' || *p == CR || *p == LF) {
                continue;
            }

            (*want)++;
        }

        if (*p != **want || *p == '\0') {
            *want = NULL;
            return NGX_DONE;
        }

        (*want)++;
    }

    return NGX_OK;
}
