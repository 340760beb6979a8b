
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>


#define NGX_HTTP_ASANA_HOOK_READ_SIZE  32768


struct ngx_http_asana_hook_hmac_s {
    EVP_MAC                       *mac;
    EVP_MAC_CTX                   *ctx;
};


/* NGX_OK: go on, NGX_DONE: enough was seen, NGX_ERROR */

typedef ngx_int_t (*ngx_http_asana_hook_piece_pt)(void *data, u_char *p,
    size_t len);


static ngx_int_t ngx_http_asana_hook_walk(ngx_chain_t *body, ngx_pool_t *pool,
    ngx_http_asana_hook_piece_pt piece, void *data);
static ngx_int_t ngx_http_asana_hook_walk_file(ngx_buf_t *b, ngx_pool_t *pool,
    ngx_http_asana_hook_piece_pt piece, void *data);
static ngx_int_t ngx_http_asana_hook_hmac_piece(void *data, u_char *p,
    size_t len);
static ngx_int_t ngx_http_asana_hook_scan_piece(void *data, u_char *p,
    size_t len);
static void ngx_http_asana_hook_hmac_cleanup(void *data);


/* the tokens of a heartbeat; a space stands for any white space */

static u_char  ngx_http_asana_hook_empty[] = " { \"events\" : [ ] } ";


ngx_http_asana_hook_hmac_t *
ngx_http_asana_hook_hmac_create(ngx_pool_t *pool, ngx_log_t *log)
{
    OSSL_PARAM                   params[2];
    ngx_pool_cleanup_t          *cln;
    ngx_http_asana_hook_hmac_t  *hmac;

    cln = ngx_pool_cleanup_add(pool, sizeof(ngx_http_asana_hook_hmac_t));
    if (cln == NULL) {
        return NULL;
    }

    hmac = cln->data;
    ngx_memzero(hmac, sizeof(ngx_http_asana_hook_hmac_t));

    cln->handler = ngx_http_asana_hook_hmac_cleanup;

    params[0] = OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST,
                                                 (char *) "SHA256", 0);
    params[1] = OSSL_PARAM_construct_end();

    hmac->mac = EVP_MAC_fetch(NULL, "HMAC", NULL);

    if (hmac->mac) {
        hmac->ctx = EVP_MAC_CTX_new(hmac->mac);
    }

    if (hmac->ctx == NULL || !EVP_MAC_CTX_set_params(hmac->ctx, params)) {
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: OpenSSL has no HMAC-SHA256");
        return NULL;
    }

    return hmac;
}


static void
ngx_http_asana_hook_hmac_cleanup(void *data)
{
    ngx_http_asana_hook_hmac_t  *hmac = data;

    EVP_MAC_CTX_free(hmac->ctx);
    EVP_MAC_free(hmac->mac);
}


ngx_int_t
ngx_http_asana_hook_hmac(ngx_http_asana_hook_hmac_t *hmac, u_char *secret,
    size_t len, ngx_chain_t *body, ngx_pool_t *pool, u_char *mac)
{
    size_t  size;

    if (!EVP_MAC_init(hmac->ctx, secret, len, NULL)) {
        goto failed;
    }

    if (ngx_http_asana_hook_walk(body, pool, ngx_http_asana_hook_hmac_piece,
                                 hmac->ctx)
        != NGX_OK)
    {
        goto failed;
    }

    if (!EVP_MAC_final(hmac->ctx, mac, &size, NGX_HTTP_ASANA_HOOK_MAC_LEN)
        || size != NGX_HTTP_ASANA_HOOK_MAC_LEN)
    {
        goto failed;
    }

    return NGX_OK;

failed:

    ngx_log_error(NGX_LOG_CRIT, pool->log, 0,
                  "asana_hook: computing the HMAC of the body failed");

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_asana_hook_hmac_piece(void *data, u_char *p, size_t len)
{
    EVP_MAC_CTX *ctx = data;

    return EVP_MAC_update(ctx, p, len) ? NGX_OK : NGX_ERROR;
}


static ngx_int_t
ngx_http_asana_hook_walk(ngx_chain_t *body, ngx_pool_t *pool,
    ngx_http_asana_hook_piece_pt piece, void *data)
{
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    for (cl = body; cl; cl = cl->next) {
        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            rc = (b->last > b->pos) ? piece(data, b->pos, b->last - b->pos)
                                    : NGX_OK;

        } else if (b->in_file) {
            rc = ngx_http_asana_hook_walk_file(b, pool, piece, data);

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
ngx_http_asana_hook_walk_file(ngx_buf_t *b, ngx_pool_t *pool,
    ngx_http_asana_hook_piece_pt piece, void *data)
{
    off_t       offset;
    size_t      size;
    u_char     *p;
    ssize_t     n;
    ngx_int_t   rc;

    size = (size_t) ngx_min(b->file_last - b->file_pos,
                            NGX_HTTP_ASANA_HOOK_READ_SIZE);

    p = ngx_palloc(pool, size);
    if (p == NULL) {
        return NGX_ERROR;
    }

    rc = NGX_OK;

    for (offset = b->file_pos; offset < b->file_last; offset += n) {

        size = (size_t) ngx_min(b->file_last - offset,
                                NGX_HTTP_ASANA_HOOK_READ_SIZE);

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
ngx_http_asana_hook_secret_id(u_char *secret, size_t len, u_char *id)
{
    u_char        digest[EVP_MAX_MD_SIZE];
    ngx_int_t     rc;
    unsigned int  size;

    rc = EVP_Digest(secret, len, digest, &size, EVP_sha256(), NULL)
         ? NGX_OK : NGX_ERROR;

    if (rc == NGX_OK) {
        ngx_memcpy(id, digest, NGX_HTTP_ASANA_HOOK_ID_LEN);
    }

    ngx_explicit_memzero(digest, EVP_MAX_MD_SIZE);

    return rc;
}


/* the value of a character that is a hex digit */

#define ngx_http_asana_hook_hex(ch)  (((ch) & 0xf) + 9 * ((ch) >> 6))


ngx_int_t
ngx_http_asana_hook_signature_parse(ngx_str_t *value, u_char *mac)
{
    u_char      *p, bad;
    ngx_uint_t   i;

    if (value->len != 2 * NGX_HTTP_ASANA_HOOK_MAC_LEN) {
        return NGX_DECLINED;
    }

    bad = 0;
    p = value->data;

    for (i = 0; i < 2 * NGX_HTTP_ASANA_HOOK_MAC_LEN; i++) {
        bad |= ((u_char) (p[i] - '0') > 9)
               & ((u_char) ((p[i] | 0x20) - 'a') > 5);
    }

    if (bad) {
        return NGX_DECLINED;
    }

    for (i = 0; i < NGX_HTTP_ASANA_HOOK_MAC_LEN; i++) {
        mac[i] = (u_char) (ngx_http_asana_hook_hex(p[2 * i]) << 4
                           | ngx_http_asana_hook_hex(p[2 * i + 1]));
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_asana_hook_heartbeat(ngx_chain_t *body, ngx_pool_t *pool)
{
    u_char  *want;

    want = ngx_http_asana_hook_empty;

    if (ngx_http_asana_hook_walk(body, pool, ngx_http_asana_hook_scan_piece,
                                 &want)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* all tokens were met, and nothing but white space behind them */

    return (want && want[1] == '\0') ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_http_asana_hook_scan_piece(void *data, u_char *p, size_t len)
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
