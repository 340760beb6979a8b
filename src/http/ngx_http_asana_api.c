
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The control API.  An answer is built whole before its first byte is sent;
 * a page of a listing ends early rather than grow without bound.
 */


#include "ngx_http_asana_api.h"
#include "ngx_asana_hmac.h"
#include "ngx_http_asana_answer.h"
#include "ngx_http_asana_args.h"
#include "ngx_http_asana_filter.h"
#include "ngx_http_asana_events.h"
#include "ngx_http_asana_header.h"
#include "ngx_http_asana_metrics.h"
#include "ngx_http_asana_page.h"
#include "ngx_http_asana_request.h"
#include "ngx_http_asana_site.h"


#define NGX_HTTP_ASANA_PAGE  1048576


typedef struct {
    ngx_http_asana_filter_t         filter;     /* must be first */
    ngx_http_asana_text_t           out;
    ngx_http_asana_zone_conf_t     *azcf;
    ngx_int_t                       left;
    ngx_str_t                       last;
    u_char                          buf[NGX_ASANA_MAX_KEY];
} ngx_http_asana_page_t;


typedef ngx_int_t (*ngx_http_asana_api_pt)(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args);


typedef struct {
    ngx_str_t                       name;
    ngx_uint_t                      methods;
    ngx_uint_t                      write;      /* 1: needs "write=on" */
    ngx_uint_t                      args;       /* a bit for each */
    ngx_http_asana_api_pt           handler;
} ngx_http_asana_api_call_t;


static ngx_int_t ngx_http_asana_api_hooks(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args);
static ngx_int_t ngx_http_asana_api_info(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args);
static ngx_int_t ngx_http_asana_api_metrics(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args);
static ngx_int_t ngx_http_asana_api_events(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args);
static ngx_int_t ngx_http_asana_api_list(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args);
static ngx_int_t ngx_http_asana_api_page(ngx_asana_listing_t *listing,
    ngx_str_t *key, ngx_asana_secrets_t *secrets);
static ngx_int_t ngx_http_asana_api_listed(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_api_key(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *key);
static ngx_int_t ngx_http_asana_api_found(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_api_write(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args);
static ngx_int_t ngx_http_asana_api_written(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_api_wait(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static void ngx_http_asana_api_end(ngx_http_asana_ctx_t *ctx, ngx_int_t rc);
static ngx_int_t ngx_http_asana_api_reseal(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args);
static ngx_int_t ngx_http_asana_api_resealed(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_api_method(ngx_http_request_t *r,
    ngx_uint_t methods);
static ngx_int_t ngx_http_asana_api_failed(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_api_unknown(ngx_http_request_t *r);


static ngx_http_asana_api_call_t  ngx_http_asana_api_calls[] = {

    { ngx_string(""), NGX_HTTP_GET|NGX_HTTP_HEAD, 0, 0,
      ngx_http_asana_api_info },

    { ngx_string("hooks"), NGX_HTTP_GET|NGX_HTTP_HEAD, 0,
      1 << NGX_HTTP_ASANA_ARG_KEY
      | 1 << NGX_HTTP_ASANA_ARG_AFTER
      | 1 << NGX_HTTP_ASANA_ARG_LIMIT
      | 1 << NGX_HTTP_ASANA_ARG_Q
      | 1 << NGX_HTTP_ASANA_ARG_HEALTH,
      ngx_http_asana_api_hooks },

    { ngx_string("hooks"), NGX_HTTP_PUT, 1, 1 << NGX_HTTP_ASANA_ARG_KEY,
      ngx_http_asana_api_write },

    { ngx_string("hooks"), NGX_HTTP_DELETE, 1,
      1 << NGX_HTTP_ASANA_ARG_KEY | 1 << NGX_HTTP_ASANA_ARG_ID,
      ngx_http_asana_api_write },

    { ngx_string("events"), NGX_HTTP_GET|NGX_HTTP_HEAD, 0,
      1 << NGX_HTTP_ASANA_ARG_LIMIT, ngx_http_asana_api_events },

    { ngx_string("metrics"), NGX_HTTP_GET|NGX_HTTP_HEAD, 0, 0,
      ngx_http_asana_api_metrics },

    { ngx_string("reseal"), NGX_HTTP_POST, 1, 0, ngx_http_asana_api_reseal },

    { ngx_null_string, 0, 0, 0, NULL }
};


ngx_int_t
ngx_http_asana_api_handler(ngx_http_request_t *r)
{
    u_char                      *p, *last;
    ngx_int_t                    rc;
    ngx_uint_t                   found, methods;
    const char                  *error;
    ngx_http_asana_args_t        args;
    ngx_http_core_loc_conf_t    *clcf;
    ngx_http_asana_loc_conf_t   *ahcf;
    ngx_http_asana_api_call_t   *call, *c;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);
    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    p = r->uri.data + ngx_min(clcf->name.len, r->uri.len);
    last = r->uri.data + r->uri.len;

    /* "location /api" is no "location /apihooks" */

    found = 0;
    methods = 0;
    call = NULL;

    c = (p < last && *p != '/' && (clcf->name.len == 0 || p[-1] != '/'))
        ? NULL : ngx_http_asana_api_calls;

    while (p < last && *p == '/') {
        p++;
    }

    for ( /* void */ ; c && c->handler; c++) {

        if (c->name.len != (size_t) (last - p)
            || ngx_strncmp(c->name.data, p, c->name.len) != 0)
        {
            continue;
        }

        found = 1;

        if (c->write && !ahcf->api_write) {
            continue;
        }

        methods |= c->methods;

        if (r->method & c->methods) {
            call = c;
        }
    }

    if (!found) {
        return ngx_http_asana_answer_error(r, NGX_HTTP_NOT_FOUND,
                                           "no such call; there are /, /hooks, "
                                           "/events, /metrics and /reseal");
    }

    rc = ngx_http_asana_api_method(r, methods);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    error = ngx_http_asana_args_read(r, call->args, &args);

    if (error) {
        return ngx_http_asana_answer_error(r, args.status, error);
    }

    return call->handler(r, ahcf->api->data, &args);
}


/* NGX_DECLINED: the call goes on, all else is what its answer returned */

static ngx_int_t
ngx_http_asana_api_method(ngx_http_request_t *r, ngx_uint_t methods)
{
    ngx_str_t  allow;

    if (r->method & methods) {

        if (r->headers_in.content_length_n > 0 || r->headers_in.chunked) {
            return ngx_http_asana_answer_error(r, NGX_HTTP_BAD_REQUEST,
                                               "a body has no meaning here");
        }

        if (ngx_http_asana_site_foreign(r)) {
            return ngx_http_asana_answer_error(r, NGX_HTTP_FORBIDDEN,
                                               "a browser sends this from "
                                               "another site");
        }

        return NGX_DECLINED;
    }

    if (methods & NGX_HTTP_PUT) {
        ngx_str_set(&allow, "GET, HEAD, OPTIONS, PUT, DELETE");

    } else if (methods & NGX_HTTP_GET) {
        ngx_str_set(&allow, "GET, HEAD, OPTIONS");

    } else if (methods) {
        ngx_str_set(&allow, "OPTIONS, POST");

    } else {
        ngx_str_set(&allow, "OPTIONS");
    }

    if (ngx_http_asana_header_add(r, "Allow", &allow) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (r->method == NGX_HTTP_OPTIONS) {
        return ngx_http_asana_answer_send(r, NGX_HTTP_NO_CONTENT, NULL,
                                          NULL);
    }

    return ngx_http_asana_answer_error(r, NGX_HTTP_NOT_ALLOWED,
                                       "this method is not allowed here; "
                                       "PUT and DELETE of /hooks, and "
                                       "POST of /reseal, need "
                                       "\\\"write=on\\\"");
}


static ngx_int_t
ngx_http_asana_api_hooks(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args)
{
    if (args->given == 1 << NGX_HTTP_ASANA_ARG_KEY) {
        return ngx_http_asana_api_key(r, azcf,
                                      &args->value[NGX_HTTP_ASANA_ARG_KEY]);
    }

    if (args->given & 1 << NGX_HTTP_ASANA_ARG_KEY) {
        return ngx_http_asana_answer_error(r, NGX_HTTP_BAD_REQUEST,
                                           "\\\"key\\\" goes alone");
    }

    return ngx_http_asana_api_list(r, azcf, args);
}


static ngx_int_t
ngx_http_asana_api_info(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args)
{
    ngx_http_asana_text_t  out;

    if (ngx_http_asana_page_wanted(r)) {
        return ngx_http_asana_page(r);
    }

    ngx_http_asana_answer_start(&out, r);
    ngx_http_asana_metrics_json(&out, azcf);

    return ngx_http_asana_answer_send(r, NGX_HTTP_OK, "application/json",
                                      &out);
}


static ngx_int_t
ngx_http_asana_api_metrics(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args)
{
    ngx_http_asana_text_t  out;

    ngx_http_asana_answer_start(&out, r);
    ngx_http_asana_metrics(&out, azcf);

    return ngx_http_asana_answer_send(r, NGX_HTTP_OK,
                                      "text/plain; version=0.0.4", &out);
}


static ngx_int_t
ngx_http_asana_api_events(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args)
{
    ngx_http_asana_text_t  out;

    ngx_http_asana_answer_start(&out, r);
    ngx_http_asana_events(&out, azcf, args->limit);

    return ngx_http_asana_answer_send(r, NGX_HTTP_OK, "application/json",
                                      &out);
}


static ngx_int_t
ngx_http_asana_api_list(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args)
{
    ngx_http_asana_ctx_t   *ctx;
    ngx_http_asana_page_t  *page;

    ctx = ngx_http_asana_request_create(r, azcf, NGX_ASANA_COUNTS,
                                        ngx_http_asana_api_end);
    page = ngx_pcalloc(r->pool, sizeof(ngx_http_asana_page_t));

    if (ctx == NULL || page == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->data = page;

    ngx_http_asana_answer_start(&page->out, r);
    ngx_http_asana_text(&page->out, "{\"hooks\":[");

    page->azcf = azcf;
    page->left = args->limit;
    page->last.data = page->buf;

    page->filter.listing.shown = ngx_http_asana_api_page;

    return ngx_http_asana_api_wait(ctx, ngx_http_asana_filter(ctx, args,
                                                 ngx_http_asana_api_listed));
}


static ngx_int_t
ngx_http_asana_api_listed(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_asana_page_t  *page;

    page = ctx->data;

    if (rc == NGX_ERROR) {
        return ngx_http_asana_api_unknown(ctx->r);
    }

    if (rc == NGX_DONE) {
        ngx_http_asana_text(&page->out, "],\"next\":\"");
        ngx_http_asana_text_escaped(&page->out, page->filter.next.len
                                                ? &page->filter.next
                                                : &page->last);
        ngx_http_asana_text(&page->out, "\"}\n");

    } else {
        ngx_http_asana_text(&page->out, "],\"next\":null}\n");
    }

    return ngx_http_asana_answer_send(ctx->r, NGX_HTTP_OK, "application/json",
                                      &page->out);
}


static ngx_int_t
ngx_http_asana_api_page(ngx_asana_listing_t *listing, ngx_str_t *key,
    ngx_asana_secrets_t *secrets)
{
    ngx_http_asana_page_t *page = (ngx_http_asana_page_t *) listing;

    if (page->left == 0
        || (page->last.len && page->out.size > NGX_HTTP_ASANA_PAGE))
    {
        return NGX_DONE;
    }

    if (page->last.len) {
        ngx_http_asana_text(&page->out, ",");
    }

    ngx_http_asana_text_hook(&page->out, page->azcf, key, secrets);

    page->left--;
    page->last.len = key->len;
    ngx_memcpy(page->buf, key->data, key->len);

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_api_key(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *key)
{
    ngx_http_asana_ctx_t  *ctx;

    ctx = ngx_http_asana_request_create(r, azcf, NGX_ASANA_COUNTS,
                                        ngx_http_asana_api_end);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->rc = NGX_HTTP_OK;
    ctx->key = *key;
    ctx->hash = ngx_murmur_hash2(key->data, key->len);
    ctx->lookup.fresh = 1;

    return ngx_http_asana_api_wait(ctx,
                   ngx_http_asana_request_find(ctx, ngx_http_asana_api_found));
}


/* the key is shown with the status in ctx->rc */

static ngx_int_t
ngx_http_asana_api_found(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_request_t     *r;
    ngx_http_asana_text_t   out;

    r = ctx->r;

    if (rc == NGX_ERROR) {
        return ngx_http_asana_api_unknown(r);
    }

    /* what was put may have been revoked since */

    if (rc == NGX_DECLINED && r->method != NGX_HTTP_PUT) {
        return ngx_http_asana_answer_error(r, NGX_HTTP_NOT_FOUND,
                                           "no secret is held for this key");
    }

    ngx_http_asana_answer_start(&out, r);
    ngx_http_asana_text_hook(&out, ctx->azcf, &ctx->key, &ctx->secrets);
    ngx_http_asana_text(&out, "\n");

    ngx_asana_secrets_wipe(&ctx->secrets);

    return ngx_http_asana_answer_send(r, ctx->rc, "application/json", &out);
}


static ngx_int_t
ngx_http_asana_api_write(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args)
{
    ngx_str_t                *key;
    ngx_asana_task_t         *task;
    ngx_asana_change_t       *change;
    ngx_http_asana_ctx_t     *ctx;
    ngx_http_asana_header_t   h;

    key = &args->value[NGX_HTTP_ASANA_ARG_KEY];

    if (key->len == 0) {
        return ngx_http_asana_answer_error(r, NGX_HTTP_BAD_REQUEST,
                                           "\\\"key\\\" is missing");
    }

    ngx_http_asana_header_read(r, &h);

    if (r->method == NGX_HTTP_PUT
        && (h.secrets != 1
            || ngx_asana_secrets_check(h.secret.data, h.secret.len) != NGX_OK))
    {
        return ngx_http_asana_answer_error(r, NGX_HTTP_BAD_REQUEST,
                                        "one X-Hook-Secret is needed, of 16 "
                                           "to 255 visible ASCII characters");
    }

    ctx = ngx_http_asana_request_create(r, azcf, NGX_ASANA_COUNTS,
                                        ngx_http_asana_api_end);
    task = ngx_asana_task_create(NGX_ASANA_REVOKE, key, r->connection->log);

    if (ctx == NULL || task == NULL) {

        if (task) {
            ngx_asana_task_free(task);
        }

        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->key = *key;
    ctx->hash = ngx_murmur_hash2(key->data, key->len);

    change = &task->change;

    change->all = !(args->given & 1 << NGX_HTTP_ASANA_ARG_ID);
    ngx_memcpy(change->id, args->id, NGX_ASANA_ID_LEN);

    if (r->method == NGX_HTTP_PUT) {
        change->type = NGX_ASANA_PUT;
        ngx_asana_task_set_secret(task, &h.secret);
        ngx_asana_hmac_id(h.secret.data, h.secret.len, change->id);
    }

    return ngx_http_asana_api_wait(ctx,
                                   ngx_http_asana_request_change(ctx, task,
                                                ngx_http_asana_api_written));
}


static ngx_int_t
ngx_http_asana_api_written(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_request_t  *r;

    r = ctx->r;

    switch (rc) {

    case NGX_ASANA_HELD:
    case NGX_ASANA_CHANGED:
    case NGX_ASANA_ADDED:

        if (r->method == NGX_HTTP_PUT) {
            ctx->rc = (rc == NGX_ASANA_ADDED) ? NGX_HTTP_CREATED : NGX_HTTP_OK;
            ctx->lookup.fresh = 1;
            return ngx_http_asana_request_find(ctx, ngx_http_asana_api_found);
        }

        return ngx_http_asana_answer_send(r, NGX_HTTP_NO_CONTENT, NULL, NULL);

    case NGX_ASANA_REFUSED:
        return ngx_http_asana_answer_error(r, NGX_HTTP_CONFLICT,
                                        "the key has as many active secrets "
                                           "as max_secrets allows; revoke one "
                                           "first");

    case NGX_ASANA_ABSENT:
        return ngx_http_asana_answer_error(r, NGX_HTTP_NOT_FOUND,
                                           "no such secret is held");

    case NGX_ASANA_FULL:
        return ngx_http_asana_answer_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                        "the store is full; raise max_size");

    default: /* NGX_ASANA_FAILED */
        return ngx_http_asana_api_failed(r);
    }
}


static ngx_int_t
ngx_http_asana_api_reseal(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_http_asana_args_t *args)
{
    ngx_asana_task_t      *task;
    ngx_http_asana_ctx_t  *ctx;

    if (azcf->store.seal == NULL) {
        return ngx_http_asana_answer_error(r, NGX_HTTP_CONFLICT,
                                           "the zone has no encryption_key, "
                                           "its secrets are in clear");
    }

    ctx = ngx_http_asana_request_create(r, azcf, NGX_ASANA_COUNTS,
                                        ngx_http_asana_api_end);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    task = ngx_asana_task_create(NGX_ASANA_RESEAL, NULL, r->connection->log);
    if (task == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_asana_api_wait(ctx,
                                   ngx_http_asana_request_change(ctx, task,
                                               ngx_http_asana_api_resealed));
}


static ngx_int_t
ngx_http_asana_api_resealed(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_asana_text_t  out;

    if (rc == NGX_ASANA_FAILED) {
        return ngx_http_asana_api_failed(ctx->r);
    }

    ngx_http_asana_answer_start(&out, ctx->r);
    ngx_http_asana_text(&out, "{\"resealed\":%ui,\"left\":%uL}\n",
                        ctx->changed->resealed, ctx->changed->left);

    return ngx_http_asana_answer_send(ctx->r, NGX_HTTP_OK, "application/json",
                                      &out);
}


static ngx_int_t
ngx_http_asana_api_failed(ngx_http_request_t *r)
{
    return ngx_http_asana_answer_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                       "the store cannot be written; see the "
                                       "error log");
}


/* a content handler that answers later holds the request */

static ngx_int_t
ngx_http_asana_api_wait(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    if (rc == NGX_DONE) {
        ctx->r->main->count++;
    }

    return rc;
}


static void
ngx_http_asana_api_end(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_finalize_request(ctx->r, rc);
}


static ngx_int_t
ngx_http_asana_api_unknown(ngx_http_request_t *r)
{
    return ngx_http_asana_answer_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                    "the store cannot be read; see the error "
                                       "log");
}
