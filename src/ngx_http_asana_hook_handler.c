
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"

#include <openssl/crypto.h>


#define NGX_HTTP_ASANA_HOOK_RETRY_AFTER  "30"


static ngx_http_asana_hook_ctx_t *ngx_http_asana_hook_create_ctx(
    ngx_http_request_t *r, ngx_http_asana_hook_zone_t *zone);
static ngx_int_t ngx_http_asana_hook_create_call(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone);
static void ngx_http_asana_hook_cleanup(void *data);
static ngx_uint_t ngx_http_asana_hook_bypass(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hook_delivery(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_headers_t *h);
static void ngx_http_asana_hook_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hook_verify(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);
static ngx_int_t ngx_http_asana_hook_unavailable(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);
static ngx_http_asana_hook_secret_t **ngx_http_asana_hook_candidates(
    ngx_http_request_t *r, ngx_http_asana_hook_ctx_t *ctx);
static int ngx_libc_cdecl ngx_http_asana_hook_cmp_candidates(const void *one,
    const void *two);
static ngx_int_t ngx_http_asana_hook_verified(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_secret_t *s);
static ngx_int_t ngx_http_asana_hook_pending(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_int_t heartbeat);


#define ngx_http_asana_hook_is(header, name)                                  \
    ((header)->key.len == (name)->len                                         \
     && ngx_strncmp((header)->lowcase_key, (name)->data, (name)->len) == 0)


static ngx_str_t  ngx_http_asana_hook_secret_name =
    ngx_string("x-hook-secret");
static ngx_str_t  ngx_http_asana_hook_signature_name =
    ngx_string("x-hook-signature");


/*
 * Internal redirects are judged anew in their own location: to skip them
 * would make "error_page" a way around the signature.
 */

ngx_int_t
ngx_http_asana_hook_handler(ngx_http_request_t *r)
{
    ngx_int_t                        rc;
    ngx_http_asana_hook_ctx_t       *ctx;
    ngx_http_asana_hook_headers_t    h;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    if (r != r->main) {
        return NGX_DECLINED;
    }

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    /* the operator's requests are no deliveries */

    if ((ahcf->shm_zone == NULL && ahcf->gateway == NULL)
        || r->content_handler == ngx_http_asana_hook_api_handler)
    {
        return NGX_DECLINED;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    if (ctx) {
        return ctx->rc;
    }

    if (ahcf->gateway) {
        return ngx_http_asana_hook_create_call(r, ahcf->gateway->data);
    }

    ctx = ngx_http_asana_hook_create_ctx(r, ahcf->shm_zone->data);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_asana_hook_headers(r, &h);

    if (r->method == NGX_HTTP_POST && h.secrets) {
        ctx->handshake = 1;
        rc = ngx_http_asana_hook_handshake(r, ctx, &h);

    } else if (ngx_http_asana_hook_bypass(r)) {
        ctx->status = NGX_HTTP_ASANA_HOOK_BYPASS;
        ctx->counted = 1;
        ctx->rc = NGX_DECLINED;
        return NGX_DECLINED;

    } else {
        rc = ngx_http_asana_hook_delivery(r, ctx, &h);
    }

    if (rc != NGX_DONE) {
        ngx_http_asana_hook_count(ctx);
    }

    return rc;
}


static ngx_int_t
ngx_http_asana_hook_create_call(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone)
{
    ngx_http_asana_hook_ctx_t  *ctx;

    if (r->method != NGX_HTTP_POST) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_asana_hook_create_ctx(r, zone);

    if (ctx == NULL || ngx_http_asana_hook_register(r, ctx) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* most of its answers are none of our business */

    ctx->rc = NGX_DECLINED;
    ctx->counted = 1;

    return NGX_DECLINED;
}


/* an internal redirect forgets the context but not the cleanup handler */

static ngx_http_asana_hook_ctx_t *
ngx_http_asana_hook_create_ctx(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone)
{
    ngx_pool_cleanup_t         *cln;
    ngx_http_asana_hook_ctx_t  *ctx;

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_asana_hook_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, offsetof(ngx_http_asana_hook_ctx_t, signature));

    ctx->zone = zone;
    ctx->rc = NGX_HTTP_INTERNAL_SERVER_ERROR;
    ctx->set.pool = r->pool;
    ctx->set.start = ctx->buf;
    ctx->set.end = ctx->buf + NGX_HTTP_ASANA_HOOK_SET_SIZE;

    cln->handler = ngx_http_asana_hook_cleanup;

    ngx_http_set_ctx(r, ctx, ngx_http_asana_hook_module);

    return ctx;
}


static void
ngx_http_asana_hook_cleanup(void *data)
{
    ngx_http_asana_hook_ctx_t *ctx = data;

    if (ctx->op) {
        ctx->op->data = NULL;
    }

    /* its body or its client went away before there was a decision */

    if (!ctx->counted) {
        ngx_http_asana_hook_count(ctx);
    }

    ngx_http_asana_hook_set_wipe(&ctx->set);
}


void
ngx_http_asana_hook_headers(ngx_http_request_t *r,
    ngx_http_asana_hook_headers_t *h)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *header;

    ngx_memzero(h, sizeof(ngx_http_asana_hook_headers_t));

    part = &r->headers_in.headers.part;
    header = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            header = part->elts;
            i = 0;
        }

        if (header[i].hash == 0) {
            continue;
        }

        if (ngx_http_asana_hook_is(&header[i],
                                   &ngx_http_asana_hook_secret_name))
        {
            h->secrets++;
            h->secret = header[i].value;

        } else if (ngx_http_asana_hook_is(&header[i],
                                          &ngx_http_asana_hook_signature_name))
        {
            h->signatures++;
            h->signature = header[i].value;
        }
    }
}


/* a body over HTTP/2 and HTTP/3 may come without a length: "chunked" */

static ngx_uint_t
ngx_http_asana_hook_bypass(ngx_http_request_t *r)
{
    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_OPTIONS
                       |NGX_HTTP_TRACE)))
    {
        return 0;
    }

    return r->headers_in.content_length_n <= 0 && !r->headers_in.chunked;
}


ngx_int_t
ngx_http_asana_hook_key(ngx_http_request_t *r, ngx_http_asana_hook_ctx_t *ctx)
{
    if (ngx_http_complex_value(r, &ctx->zone->key, &ctx->key) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ctx->key.len == 0 || ctx->key.len > NGX_HTTP_ASANA_HOOK_MAX_KEY) {
        return NGX_DECLINED;
    }

    ctx->hash = ngx_hash_key(ctx->key.data, ctx->key.len);

    return NGX_OK;
}


static ngx_int_t
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
                                          "its key is empty or longer than "
                                          "480 bytes");
    }

    rc = ngx_http_asana_hook_zone_find(ctx->zone, &ctx->key, ctx->hash,
                                       &ctx->set, r->connection->log);

    if (rc == NGX_ERROR) {
        return ngx_http_asana_hook_unavailable(r, ctx);
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_asana_hook_reject(r, ctx, NGX_HTTP_ASANA_HOOK_UNKNOWN,
                                          "no secret is held for its key");
    }

    ctx->rc = NGX_DONE;

    rc = ngx_http_read_client_request_body(r,
                                           ngx_http_asana_hook_body_handler);
    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
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
    ctx->rc = ctx->dry_run ? NGX_DECLINED : NGX_HTTP_SERVICE_UNAVAILABLE;

    return ctx->rc;
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
    ngx_int_t                        rc;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

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

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (rc == NGX_OK
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
    ngx_str_t                        value;
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

    ngx_str_set(&value, NGX_HTTP_ASANA_HOOK_RETRY_AFTER);

    if (ngx_http_asana_hook_add_header(r, "Retry-After", &value) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_HTTP_SERVICE_UNAVAILABLE;
}


ngx_int_t
ngx_http_asana_hook_reject(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_status_e status,
    const char *reason)
{
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    ngx_log_error(ahcf->log_level, r->connection->log, 0,
                  "asana_hook: request rejected by zone \"%V\": %s",
                  &ctx->zone->name, reason);

    ctx->status = status;
    ctx->dry_run = (ahcf->dry_run && !ctx->handshake);
    ctx->rc = ctx->dry_run ? NGX_DECLINED : (ngx_int_t) ahcf->status;

    return ctx->rc;
}


void
ngx_http_asana_hook_count(ngx_http_asana_hook_ctx_t *ctx)
{
    ngx_http_asana_hook_counters_t  *counters;

    counters = ctx->zone->counters;

    ctx->counted = 1;

    if (ctx->create) {
        (void) ngx_atomic_fetch_add(&counters->creates[ctx->status], 1);

    } else if (ctx->dry_run) {
        (void) ngx_atomic_fetch_add(&counters->dry_run[ctx->status], 1);

    } else if (ctx->handshake) {
        (void) ngx_atomic_fetch_add(&counters->handshakes[ctx->status], 1);

    } else {
        (void) ngx_atomic_fetch_add(&counters->deliveries[ctx->status], 1);
    }
}


ngx_int_t
ngx_http_asana_hook_answer(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_http_asana_hook_ctx_t  *ctx;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    if (ctx->status == NGX_HTTP_ASANA_HOOK_HANDSHAKE) {
        if (ngx_http_asana_hook_add_header(r, "X-Hook-Secret", &ctx->secret)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = 0;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_send_special(r, NGX_HTTP_LAST);
}


ngx_int_t
ngx_http_asana_hook_add_header(ngx_http_request_t *r, const char *name,
    ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value = *value;

    return NGX_OK;
}


void
ngx_http_asana_hook_identify(ngx_http_asana_hook_ctx_t *ctx, u_char *id)
{
    (void) ngx_hex_dump(ctx->id, id, NGX_HTTP_ASANA_HOOK_ID_LEN);
    ctx->identified = 1;
}


ngx_uint_t
ngx_http_asana_hook_acked(ngx_http_request_t *r)
{
    ngx_http_asana_hook_ctx_t       *ctx;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (!ahcf->ack) {
        return 0;
    }

    ctx = ngx_http_asana_hook_get_ctx(r);

    return ctx && (ctx->status == NGX_HTTP_ASANA_HOOK_VERIFIED
                   || ctx->status == NGX_HTTP_ASANA_HOOK_HEARTBEAT);
}


ngx_http_asana_hook_ctx_t *
ngx_http_asana_hook_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t         *cln;
    ngx_http_asana_hook_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    if (ctx || !(r->internal || r->filter_finalize)) {
        return ctx;
    }

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_asana_hook_cleanup) {
            return cln->data;
        }
    }

    return NULL;
}
