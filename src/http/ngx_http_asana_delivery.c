
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_delivery.h"
#include "ngx_asana_hmac.h"

/* seconds */
#define NGX_HTTP_ASANA_RETRY_AFTER  "30"

/* secrets that need no memory for their list, and no quick sort */
#define NGX_HTTP_ASANA_FEW          32


static ngx_int_t ngx_http_asana_delivery_looked(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static void ngx_http_asana_delivery_body(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_delivery_verify(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_delivery_search(ngx_http_asana_ctx_t *ctx,
    ngx_asana_secret_t **found);
static ngx_asana_secret_t **ngx_http_asana_delivery_candidates(
    ngx_http_asana_ctx_t *ctx, ngx_asana_secret_t **few);
static int ngx_libc_cdecl ngx_http_asana_delivery_cmp(const void *one,
    const void *two);
static void ngx_http_asana_delivery_webhook(ngx_http_asana_ctx_t *ctx,
    ngx_asana_secret_t *s);
static ngx_int_t ngx_http_asana_delivery_verified(ngx_http_asana_ctx_t *ctx,
    ngx_asana_secret_t *s);
static ngx_int_t ngx_http_asana_delivery_reject(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_word_e word, const char *reason);
static ngx_int_t ngx_http_asana_delivery_later(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_word_e word, const char *reason);
static ngx_int_t ngx_http_asana_delivery_failed(ngx_http_asana_ctx_t *ctx);


ngx_int_t
ngx_http_asana_delivery(ngx_http_asana_ctx_t *ctx, ngx_http_asana_header_t *h)
{
    ngx_int_t    rc;
    const char  *reason;

    if (h->signatures == 0) {
        return ngx_http_asana_delivery_reject(ctx, NGX_HTTP_ASANA_UNSIGNED,
                                              "it has no "
                                              "\"X-Hook-Signature\"");
    }

    if (h->signatures > 1
        || ngx_asana_hmac_parse(&h->signature, ctx->signature) != NGX_OK)
    {
        return ngx_http_asana_delivery_reject(ctx, NGX_HTTP_ASANA_MALFORMED,
                                              "\"X-Hook-Signature\" is "
                                              "repeated or not 64 hex digits");
    }

    rc = ngx_http_asana_request_key(ctx, &reason);

    if (rc == NGX_ERROR) {
        return ngx_http_asana_delivery_failed(ctx);
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_asana_delivery_reject(ctx, NGX_HTTP_ASANA_UNKNOWN,
                                              reason);
    }

    return ngx_http_asana_request_find(ctx, ngx_http_asana_delivery_looked);
}


/* before the body is read: there must be a secret */

static ngx_int_t
ngx_http_asana_delivery_looked(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    if (rc == NGX_ERROR) {
        return ngx_http_asana_delivery_later(ctx, NGX_HTTP_ASANA_ERROR, NULL);
    }

    if (rc == NGX_DECLINED) {

        if (!ngx_asana_zone_exact(ctx->azcf->zone) && !ctx->lookup.fresh) {
            ctx->lookup.fresh = 1;
            return ngx_http_asana_request_find(ctx,
                                              ngx_http_asana_delivery_looked);
        }

        /* "100 Continue", or none, would tell which keys hold a secret */

        if (ctx->r->headers_in.expect == NULL) {
            return ngx_http_asana_delivery_verify(ctx, rc);
        }
    }

    ctx->state = NGX_HTTP_ASANA_BODY;
    ctx->reading = 1;

    rc = ngx_http_read_client_request_body(ctx->r,
                                           ngx_http_asana_delivery_body);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return ngx_http_asana_request_finish(ctx,
                                         (rc < NGX_HTTP_INTERNAL_SERVER_ERROR)
                                         ? NGX_HTTP_ASANA_ABORTED
                                         : NGX_HTTP_ASANA_ERROR,
                                         rc, NULL);
    }

    if (ctx->state == NGX_HTTP_ASANA_LOOK) {

        /* it came with the header: the phases need not be run anew */

        ctx->r->main->count--;

        if (ctx->r->request_body == NULL) {
            return ngx_http_asana_delivery_failed(ctx);
        }

        return ngx_http_asana_delivery_verify(ctx, ctx->secrets.n
                                                   ? NGX_OK : NGX_DECLINED);
    }

    /* what is known now is old when the body has come */

    ctx->reading = 0;
    ctx->lookup.fresh = 0;

    ngx_http_finalize_request(ctx->r, NGX_DONE);

    return NGX_DONE;
}


static void
ngx_http_asana_delivery_body(ngx_http_request_t *r)
{
    ngx_int_t              rc;
    ngx_http_asana_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    ctx->state = NGX_HTTP_ASANA_LOOK;

    if (ctx->reading) {
        return;
    }

    if (r->request_body == NULL) {

        /* a body that was discarded can prove nothing */

        rc = ngx_http_asana_delivery_failed(ctx);

    } else if (ngx_asana_zone_moved(ctx->azcf->zone, &ctx->lookup)) {

        /* what was revoked while the body came counts no more */

        rc = ngx_http_asana_request_find(ctx, ngx_http_asana_delivery_verify);

    } else {
        rc = ngx_http_asana_delivery_verify(ctx, ctx->secrets.n
                                                 ? NGX_OK : NGX_DECLINED);
    }

    if (rc != NGX_DONE) {
        ngx_http_asana_request_phases(ctx, rc);
    }
}


static ngx_int_t
ngx_http_asana_delivery_verify(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_asana_secret_t  *s;

    if (rc == NGX_ERROR) {
        return ngx_http_asana_delivery_later(ctx, NGX_HTTP_ASANA_ERROR, NULL);
    }

    s = NULL;

    if (rc == NGX_OK
        && ngx_http_asana_delivery_search(ctx, &s) != NGX_OK)
    {
        return ngx_http_asana_delivery_failed(ctx);
    }

    /* no bad verdict on old knowledge */

    if ((s == NULL || s->pending)
        && !ctx->lookup.fresh
        && !ngx_asana_zone_exact(ctx->azcf->zone))
    {
        ctx->lookup.fresh = 1;
        return ngx_http_asana_request_find(ctx,
                                           ngx_http_asana_delivery_verify);
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_asana_delivery_reject(ctx, NGX_HTTP_ASANA_UNKNOWN,
                                              "no secret is held for its key");
    }

    if (s == NULL) {
        return ngx_http_asana_delivery_reject(ctx, NGX_HTTP_ASANA_INVALID,
                                              "no secret of its key explains "
                                              "its signature");
    }

    return ngx_http_asana_delivery_verified(ctx, s);
}


/* the secret that has signed the body, or NULL */

static ngx_int_t
ngx_http_asana_delivery_search(ngx_http_asana_ctx_t *ctx,
    ngx_asana_secret_t **found)
{
    u_char                mac[NGX_ASANA_MAC_LEN];
    ngx_int_t             rc;
    ngx_uint_t            i;
    ngx_http_request_t   *r;
    ngx_asana_secret_t  **candidate, *few[NGX_HTTP_ASANA_FEW];

    r = ctx->r;
    rc = NGX_OK;

    candidate = ngx_http_asana_delivery_candidates(ctx, few);
    if (candidate == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < ctx->secrets.n; i++) {

        rc = ngx_asana_hmac(candidate[i], r->request_body->bufs, r->pool, mac);
        if (rc != NGX_OK) {
            break;
        }

        if (ngx_asana_hmac_equal(mac, ctx->signature)) {
            *found = candidate[i];
            break;
        }
    }

    ngx_explicit_memzero(mac, NGX_ASANA_MAC_LEN);

    return rc;
}


/* the most recently successful secret is the likeliest */

static ngx_asana_secret_t **
ngx_http_asana_delivery_candidates(ngx_http_asana_ctx_t *ctx,
    ngx_asana_secret_t **few)
{
    ngx_uint_t            i, j, n;
    ngx_asana_secret_t   *s, **candidate;

    n = ctx->secrets.n;
    candidate = few;

    if (n > NGX_HTTP_ASANA_FEW) {
        candidate = ngx_palloc(ctx->r->pool, n * sizeof(ngx_asana_secret_t *));
        if (candidate == NULL) {
            return NULL;
        }
    }

    s = ngx_asana_secrets_first(&ctx->secrets);

    for (i = 0; i < n; i++) {

        for (j = i;
             j && candidate == few
             && ngx_http_asana_delivery_cmp(&s, &candidate[j - 1]) < 0;
             j--)
        {
            candidate[j] = candidate[j - 1];
        }

        candidate[j] = s;
        s = ngx_asana_secret_next(s);
    }

    if (candidate != few) {
        ngx_qsort(candidate, (size_t) n, sizeof(ngx_asana_secret_t *),
                  ngx_http_asana_delivery_cmp);
    }

    return candidate;
}


static int ngx_libc_cdecl
ngx_http_asana_delivery_cmp(const void *one, const void *two)
{
    time_t               first, second;
    ngx_asana_secret_t  *s, *other;

    s = *(ngx_asana_secret_t **) one;
    other = *(ngx_asana_secret_t **) two;

    if (s->pending != other->pending) {
        return s->pending ? 1 : -1;
    }

    first = ngx_asana_secret_seen(s);
    second = ngx_asana_secret_seen(other);

    return (first < second) - (first > second);
}


/* the secret is wiped, and the log comes later */

static void
ngx_http_asana_delivery_webhook(ngx_http_asana_ctx_t *ctx,
    ngx_asana_secret_t *s)
{
    ngx_str_t  gid;

    gid.len = s->gid_len;
    gid.data = s->gid;

    ctx->webhook.data = gid.len ? ngx_pstrdup(ctx->r->pool, &gid) : NULL;
    ctx->webhook.len = ctx->webhook.data ? gid.len : 0;
}


/*
 * Anybody may have sent a secret that is pending.  Asana's first heartbeat is
 * to succeed all the same, and its events are to come again when the secret is
 * confirmed.
 */

static ngx_int_t
ngx_http_asana_delivery_verified(ngx_http_asana_ctx_t *ctx,
    ngx_asana_secret_t *s)
{
    ngx_int_t  heartbeat;

    heartbeat = ngx_asana_hmac_heartbeat(ctx->r->request_body->bufs,
                                         ctx->r->pool);

    if (heartbeat == NGX_ERROR) {
        return ngx_http_asana_delivery_failed(ctx);
    }

    ngx_http_asana_delivery_webhook(ctx, s);

    if (s->pending) {
        ngx_http_asana_request_identify(ctx, s->id);

        if (heartbeat == NGX_OK) {
            return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_PENDING,
                                                 NGX_OK, NULL);
        }

        return ngx_http_asana_delivery_later(ctx, NGX_HTTP_ASANA_PENDING,
                                             "its secret is not confirmed "
                                             "yet; confirm it by "
                                             "\"asana_hook_api\"");
    }

    ngx_memcpy(&ctx->verified, s, offsetof(ngx_asana_secret_t, data));
    ctx->verified.verified = ngx_max(s->verified, ngx_time());
    ctx->verified.code = 0;

    (void) ngx_http_asana_request_finish(ctx, (heartbeat == NGX_OK)
                                              ? NGX_HTTP_ASANA_HEARTBEAT
                                              : NGX_HTTP_ASANA_VERIFIED,
                                         NGX_DECLINED, NULL);

    ctx->rc = ngx_http_asana_delivery_pass(ctx);

    return ctx->rc;
}


ngx_int_t
ngx_http_asana_delivery_pass(ngx_http_asana_ctx_t *ctx)
{
    ngx_http_asana_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(ctx->r, ngx_http_asana_hook_module);

    return (ctx->word == NGX_HTTP_ASANA_HEARTBEAT
            && ahcf->heartbeat == NGX_HTTP_ASANA_HEARTBEAT_ANSWER)
           ? NGX_OK : NGX_DECLINED;
}


static ngx_int_t
ngx_http_asana_delivery_reject(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_word_e word, const char *reason)
{
    ngx_http_asana_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(ctx->r, ngx_http_asana_hook_module);

    return ngx_http_asana_request_finish(ctx, word, (ngx_int_t) ahcf->status,
                                         reason);
}


/* Asana is to send it again */

static ngx_int_t
ngx_http_asana_delivery_later(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_word_e word, const char *reason)
{
    ngx_int_t  rc;
    ngx_str_t  value;

    rc = ngx_http_asana_request_finish(ctx, word,
                                       NGX_HTTP_SERVICE_UNAVAILABLE, reason);

    ngx_str_set(&value, NGX_HTTP_ASANA_RETRY_AFTER);

    if (rc == NGX_HTTP_SERVICE_UNAVAILABLE
        && ngx_http_asana_header_add(ctx->r, "Retry-After", &value) != NGX_OK)
    {
        ctx->rc = NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ctx->rc;
}


static ngx_int_t
ngx_http_asana_delivery_failed(ngx_http_asana_ctx_t *ctx)
{
    return ngx_http_asana_request_finish(ctx, NGX_HTTP_ASANA_ERROR,
                                         NGX_HTTP_INTERNAL_SERVER_ERROR, NULL);
}
