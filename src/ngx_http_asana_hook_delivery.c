
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"

#include <openssl/crypto.h>


#define NGX_HTTP_ASANA_HOOK_RETRY_AFTER  "30"


static void ngx_http_asana_hook_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hook_verify(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);
static ngx_int_t ngx_http_asana_hook_unavailable(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);
static ngx_int_t ngx_http_asana_hook_later(ngx_http_request_t *r);
static ngx_http_asana_hook_secret_t **ngx_http_asana_hook_candidates(
    ngx_http_request_t *r, ngx_http_asana_hook_ctx_t *ctx);
static int ngx_libc_cdecl ngx_http_asana_hook_cmp_candidates(const void *one,
    const void *two);
static ngx_int_t ngx_http_asana_hook_verified(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_secret_t *s);
static ngx_int_t ngx_http_asana_hook_pending(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_int_t heartbeat);


ngx_int_t
ngx_http_asana_hook_delivery(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_headers_t *h)
{
    ngx_int_t  rc;

    if (h->signatures == 0) {
        return ngx_http_asana_hook_reject(r, ctx, NGX_HTTP_ASANA_HOOK_UNSIGNED,
                                          "it has no \"X-Hook-Signature\"");
    }

    if (h->signatures > 1
        || ngx_http_asana_hook_signature_parse(&h->signature, ctx->signature)
           != NGX_OK)
    {
        return ngx_http_asana_hook_reject(r, ctx,
                                          NGX_HTTP_ASANA_HOOK_MALFORMED,
                                          "\"X-Hook-Signature\" is repeated or "
                                          "not 64 hex digits");
    }

    ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;

    rc = ngx_http_asana_hook_key(r, ctx);

    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_asana_hook_reject(r, ctx, NGX_HTTP_ASANA_HOOK_UNKNOWN,
                                          NGX_HTTP_ASANA_HOOK_BAD_KEY);
    }

    rc = ngx_http_asana_hook_zone_find(ctx->zone, &ctx->key, ctx->hash,
                                       &ctx->set, r->connection->log);

    if (rc == NGX_ERROR) {
        return ngx_http_asana_hook_unavailable(r, ctx);
    }

    /* "100 Continue", or none, would tell which keys hold a secret */

    if (rc == NGX_DECLINED && r->headers_in.expect == NULL) {
        return ngx_http_asana_hook_reject(r, ctx, NGX_HTTP_ASANA_HOOK_UNKNOWN,
                                          "no secret is held for its key");
    }

    ctx->rc = NGX_DONE;
    ctx->status = NGX_HTTP_ASANA_HOOK_ABORTED;

    rc = ngx_http_read_client_request_body(r,
                                           ngx_http_asana_hook_body_handler);
    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {

        if (rc >= NGX_HTTP_INTERNAL_SERVER_ERROR) {
            ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;
        }

        return rc;
    }

    ngx_http_finalize_request(r, NGX_DONE);

    return NGX_DONE;
}


static void
ngx_http_asana_hook_body_handler(ngx_http_request_t *r)
{
    ngx_http_asana_hook_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;
    ctx->rc = ngx_http_asana_hook_verify(r, ctx);

    ngx_http_asana_hook_set_wipe(&ctx->set);
    ngx_http_asana_hook_count(ctx);

    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
}


static ngx_int_t
ngx_http_asana_hook_verify(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx)
{
    u_char                          mac[NGX_HTTP_ASANA_HOOK_MAC_LEN];
    ngx_int_t                       rc;
    ngx_uint_t                      i, found;
    ngx_http_asana_hook_secret_t   *s, **candidate;

    /* a body that was discarded can prove nothing */

    if (r->request_body == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* what was revoked while the body came counts no more */

    if (ngx_http_asana_hook_zone_moved(ctx->zone, &ctx->set)) {

        ngx_http_asana_hook_set_wipe(&ctx->set);

        rc = ngx_http_asana_hook_zone_find(ctx->zone, &ctx->key, ctx->hash,
                                           &ctx->set, r->connection->log);
        if (rc == NGX_ERROR) {
            return ngx_http_asana_hook_unavailable(r, ctx);
        }

        if (rc == NGX_DECLINED) {
            return ngx_http_asana_hook_reject(r, ctx,
                                              NGX_HTTP_ASANA_HOOK_UNKNOWN,
                                              "no secret is held for its key");
        }
    }

    if (ctx->set.n == 0) {
        return ngx_http_asana_hook_reject(r, ctx, NGX_HTTP_ASANA_HOOK_UNKNOWN,
                                          "no secret is held for its key");
    }

    candidate = ngx_http_asana_hook_candidates(r, ctx);
    if (candidate == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    s = NULL;
    found = 0;

    for (i = 0; i < ctx->set.n && !found; i++) {

        s = candidate[i];

        if (ngx_http_asana_hook_hmac(ctx->zone->hmac, s, ctx->set.txnid,
                                     r->request_body->bufs, r->pool, mac)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        found = (CRYPTO_memcmp(mac, ctx->signature,
                               NGX_HTTP_ASANA_HOOK_MAC_LEN)
                 == 0);
    }

    ngx_explicit_memzero(mac, NGX_HTTP_ASANA_HOOK_MAC_LEN);

    if (!found) {
        return ngx_http_asana_hook_reject(r, ctx, NGX_HTTP_ASANA_HOOK_INVALID,
                                          "no secret of its key explains its "
                                          "signature");
    }

    return ngx_http_asana_hook_verified(r, ctx, s);
}


/* the store cannot tell */

static ngx_int_t
ngx_http_asana_hook_unavailable(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx)
{
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;
    ctx->dry_run = ahcf->dry_run;
    ctx->rc = ctx->dry_run ? NGX_DECLINED : ngx_http_asana_hook_later(r);

    return ctx->rc;
}


/* Asana is to send it again */

static ngx_int_t
ngx_http_asana_hook_later(ngx_http_request_t *r)
{
    ngx_str_t  value;

    ngx_str_set(&value, NGX_HTTP_ASANA_HOOK_RETRY_AFTER);

    if (ngx_http_asana_hook_add_header(r, "Retry-After", &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_HTTP_SERVICE_UNAVAILABLE;
}


/* the most recently successful secret is the likeliest */

static ngx_http_asana_hook_secret_t **
ngx_http_asana_hook_candidates(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx)
{
    ngx_uint_t                      i;
    ngx_http_asana_hook_secret_t   *s, **candidate;

    candidate = ngx_palloc(r->pool,
                           ctx->set.n * sizeof(ngx_http_asana_hook_secret_t *));
    if (candidate == NULL) {
        return NULL;
    }

    s = (ngx_http_asana_hook_secret_t *) ctx->set.start;

    for (i = 0; i < ctx->set.n; i++) {
        candidate[i] = s;
        s = ngx_http_asana_hook_secret_next(s);
    }

    if (ctx->set.n > 1) {
        ngx_qsort(candidate, (size_t) ctx->set.n,
                  sizeof(ngx_http_asana_hook_secret_t *),
                  ngx_http_asana_hook_cmp_candidates);
    }

    return candidate;
}


static int ngx_libc_cdecl
ngx_http_asana_hook_cmp_candidates(const void *one, const void *two)
{
    time_t                         first, second;
    ngx_http_asana_hook_secret_t  *s, *other;

    s = *(ngx_http_asana_hook_secret_t **) one;
    other = *(ngx_http_asana_hook_secret_t **) two;

    if (s->pending != other->pending) {
        return s->pending ? 1 : -1;
    }

    first = ngx_http_asana_hook_secret_seen(s);
    second = ngx_http_asana_hook_secret_seen(other);

    return (first < second) - (first > second);
}


static ngx_int_t
ngx_http_asana_hook_verified(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_secret_t *s)
{
    ngx_int_t  rc;

    rc = ngx_http_asana_hook_heartbeat(r->request_body->bufs, r->pool);

    if (rc == NGX_ERROR) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_asana_hook_identify(ctx, s->id);

    if (s->pending) {
        return ngx_http_asana_hook_pending(r, ctx, rc);
    }

    ctx->status = (rc == NGX_OK) ? NGX_HTTP_ASANA_HOOK_HEARTBEAT
                                 : NGX_HTTP_ASANA_HOOK_VERIFIED;

    ngx_http_asana_hook_zone_touch(ctx->zone, &ctx->key, ctx->hash, s,
                                   r->connection->log);

    return ngx_http_asana_hook_pass(r, ctx);
}


ngx_int_t
ngx_http_asana_hook_pass(ngx_http_request_t *r, ngx_http_asana_hook_ctx_t *ctx)
{
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (ctx->status == NGX_HTTP_ASANA_HOOK_HEARTBEAT
        && ahcf->heartbeat == NGX_HTTP_ASANA_HOOK_HEARTBEAT_ANSWER)
    {
        r->content_handler = ngx_http_asana_hook_answer;
        return NGX_OK;
    }

    return NGX_DECLINED;
}


/*
 * Anybody may have sent the secret.  Asana's first heartbeat is to succeed
 * all the same, and its events are to come again when it is confirmed.
 */

static ngx_int_t
ngx_http_asana_hook_pending(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_int_t heartbeat)
{
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    ctx->status = NGX_HTTP_ASANA_HOOK_PENDING;

    if (heartbeat != NGX_OK) {
        ngx_log_error(ahcf->log_level, r->connection->log, 0,
                      "asana_hook: request rejected by zone \"%V\": its secret "
                      "is not confirmed yet; confirm it by \"asana_hook_api\"",
                      &ctx->zone->name);
    }

    if (ahcf->dry_run) {
        ctx->dry_run = 1;
        return NGX_DECLINED;
    }

    if (heartbeat == NGX_OK) {
        r->content_handler = ngx_http_asana_hook_answer;
        return NGX_OK;
    }

    return ngx_http_asana_hook_later(r);
}
