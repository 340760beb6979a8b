
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"


static ngx_int_t ngx_http_asana_hook_decide(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone);
static ngx_http_asana_hook_ctx_t *ngx_http_asana_hook_create_ctx(
    ngx_http_request_t *r, ngx_http_asana_hook_zone_t *zone);
static ngx_int_t ngx_http_asana_hook_create_call(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone);
static void ngx_http_asana_hook_cleanup(void *data);
static ngx_uint_t ngx_http_asana_hook_bypass(ngx_http_request_t *r);
static ngx_http_asana_hook_status_e ngx_http_asana_hook_status(
    ngx_http_asana_hook_ctx_t *ctx);


/* what a client says of itself is hidden from all that comes after this */

ngx_int_t
ngx_http_asana_hook_post_read_handler(ngx_http_request_t *r)
{
    if (ngx_http_asana_hook_header_hide(r, &ngx_http_asana_hook_status_name)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_DECLINED;
}


ngx_int_t
ngx_http_asana_hook_handler(ngx_http_request_t *r)
{
    ngx_int_t                        rc;
    ngx_str_t                        word;
    ngx_http_asana_hook_ctx_t       *ctx;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    /*
     * The word is the verdict of one location.  What nginx could not read as
     * a request comes here by "error_page" without the POST_READ phase.
     */

    if ((r->internal || r != r->main)
        && ngx_http_asana_hook_header_hide(r, &ngx_http_asana_hook_status_name)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

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

    if (ahcf->gateway) {
        return ctx ? ctx->rc
                   : ngx_http_asana_hook_create_call(r, ahcf->gateway->data);
    }

    rc = ctx ? ctx->rc : ngx_http_asana_hook_decide(r, ahcf->shm_zone->data);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    ngx_http_asana_hook_word(ctx, &word);

    if (ngx_http_asana_hook_header_set(r, &word) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return NGX_DECLINED;
}


/*
 * What an internal redirect brings is judged anew, or "error_page" would be a
 * way around the signature.  Only a delivery that was verified stays so in its
 * zone: its application has it, under another URI.
 */

static ngx_int_t
ngx_http_asana_hook_decide(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone)
{
    ngx_int_t                      rc;
    ngx_http_asana_hook_ctx_t     *ctx;
    ngx_http_asana_hook_headers_t  h;

    ctx = ngx_http_asana_hook_get_ctx(r);

    if (ctx
        && ctx->zone == zone
        && (ctx->status == NGX_HTTP_ASANA_HOOK_VERIFIED
            || ctx->status == NGX_HTTP_ASANA_HOOK_HEARTBEAT))
    {
        ngx_http_set_ctx(r, ctx, ngx_http_asana_hook_module);

        ctx->rc = ngx_http_asana_hook_pass(r, ctx);

        return ctx->rc;
    }

    /* by "error_page" or "post_action"; what came of its body is no body */

    if (ctx && ctx->status == NGX_HTTP_ASANA_HOOK_ABORTED) {
        return ngx_max((ngx_int_t) r->err_status, NGX_HTTP_BAD_REQUEST);
    }

    ctx = ngx_http_asana_hook_create_ctx(r, zone);
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

    if (r->method != NGX_HTTP_POST && !ngx_http_asana_hook_foreign(r)) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_asana_hook_create_ctx(r, zone);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* most of its answers are none of our business */

    ctx->counted = 1;
    ctx->rc = ngx_http_asana_hook_register(r, ctx);

    return ctx->rc;
}


/* an internal redirect forgets the context but not the cleanup handler */

static ngx_http_asana_hook_ctx_t *
ngx_http_asana_hook_create_ctx(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone)
{
    ngx_uint_t                  counted;
    ngx_pool_cleanup_t         *cln;
    ngx_http_asana_hook_ctx_t  *ctx;

    counted = 0;

    for (cln = r->pool->cleanup; cln; cln = cln->next) {

        if (cln->handler != ngx_http_asana_hook_cleanup) {
            continue;
        }

        ctx = cln->data;

        if (ctx->zone == zone
            && !ctx->create
            && ctx->status != NGX_HTTP_ASANA_HOOK_BYPASS)
        {
            counted = 1;
        }
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_asana_hook_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, offsetof(ngx_http_asana_hook_ctx_t, signature));

    ctx->counted = counted;
    ctx->request = r;
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

    if (ctx->timer && ctx->timer->timer_set) {
        ngx_del_timer(ctx->timer);
    }

    /* its body or its client went away before there was a decision */

    if (!ctx->counted) {
        ngx_http_asana_hook_count(ctx);
    }

    ngx_http_asana_hook_set_wipe(&ctx->set);
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
    size_t  i;

    if (ngx_http_complex_value(r, &ctx->zone->key, &ctx->key) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ctx->key.len == 0 || ctx->key.len > NGX_HTTP_ASANA_HOOK_MAX_KEY) {
        return NGX_DECLINED;
    }

    /* "$" of a regular expression lets a new line pass at the end of a URI */

    for (i = 0; i < ctx->key.len; i++) {
        if (ctx->key.data[i] < 0x20 || ctx->key.data[i] == 0x7f) {
            return NGX_DECLINED;
        }
    }

    ctx->hash = ngx_hash_key(ctx->key.data, ctx->key.len);

    return NGX_OK;
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


/* nginx ends a request whose body does not arrive, for whatever reason */

static ngx_http_asana_hook_status_e
ngx_http_asana_hook_status(ngx_http_asana_hook_ctx_t *ctx)
{
    if (ctx->status == NGX_HTTP_ASANA_HOOK_ABORTED
        && ctx->request->err_status >= NGX_HTTP_INTERNAL_SERVER_ERROR)
    {
        return NGX_HTTP_ASANA_HOOK_ERROR;
    }

    return ctx->status;
}


void
ngx_http_asana_hook_word(ngx_http_asana_hook_ctx_t *ctx, ngx_str_t *word)
{
    *word = ngx_http_asana_hook_words[ngx_http_asana_hook_status(ctx)];

    if (word->len && !ctx->dry_run) {
        word->len -= sizeof(NGX_HTTP_ASANA_HOOK_DRY_RUN) - 1;
    }
}


void
ngx_http_asana_hook_count(ngx_http_asana_hook_ctx_t *ctx)
{
    ngx_http_asana_hook_status_e     status;
    ngx_http_asana_hook_counters_t  *counters;

    /* a create call is counted when its answer has come */

    if (ctx->counted && ctx->create == NULL) {
        return;
    }

    status = ngx_http_asana_hook_status(ctx);
    counters = ctx->zone->counters;

    ctx->counted = 1;

    if (ctx->create) {
        (void) ngx_atomic_fetch_add(&counters->creates[status], 1);

    } else if (ctx->dry_run) {
        (void) ngx_atomic_fetch_add(&counters->dry_run[status], 1);

    } else if (ctx->handshake) {
        (void) ngx_atomic_fetch_add(&counters->handshakes[status], 1);

    } else {
        (void) ngx_atomic_fetch_add(&counters->deliveries[status], 1);
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

    /* "If-Match" must not make a 412 of a secret that is stored */
    r->disable_not_modified = 1;

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
