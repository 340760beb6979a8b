
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The control API.  An answer is built whole before its first byte is sent;
 * a page of a listing ends early rather than grow without bound.
 */


#include "ngx_http_asana_hook.h"


#define NGX_HTTP_ASANA_HOOK_PAGE  1048576


typedef struct {
    ngx_http_request_t             *r;
    ngx_http_asana_hook_op_t       *op;
    ngx_http_asana_hook_zone_t     *zone;
    ngx_str_t                       key;
} ngx_http_asana_hook_write_t;


typedef struct {
    ngx_http_asana_hook_out_t      *out;
    ngx_http_asana_hook_zone_t     *zone;
    ngx_int_t                       left;
    ngx_str_t                       last;
    u_char                          buf[NGX_HTTP_ASANA_HOOK_MAX_KEY];
} ngx_http_asana_hook_page_t;


static ngx_int_t ngx_http_asana_hook_api_hooks(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone);
static ngx_int_t ngx_http_asana_hook_api_info(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone);
static ngx_int_t ngx_http_asana_hook_api_metrics(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone);
static ngx_int_t ngx_http_asana_hook_api_list(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_args_t *args);
static ngx_int_t ngx_http_asana_hook_api_page(void *data, ngx_str_t *key,
    ngx_http_asana_hook_set_t *set);
static ngx_int_t ngx_http_asana_hook_api_key(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *key, ngx_uint_t status);
static ngx_int_t ngx_http_asana_hook_api_write(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_args_t *args);
static void ngx_http_asana_hook_api_cleanup(void *data);
static void ngx_http_asana_hook_api_written(ngx_http_asana_hook_op_t *op);
static ngx_int_t ngx_http_asana_hook_api_outcome(
    ngx_http_asana_hook_write_t *w);
static ngx_int_t ngx_http_asana_hook_api_method(ngx_http_request_t *r,
    ngx_uint_t write);
static ngx_int_t ngx_http_asana_hook_api_error(ngx_http_request_t *r,
    ngx_uint_t status, const char *text);
static void ngx_http_asana_hook_api_start(ngx_http_asana_hook_out_t *out,
    ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hook_api_send(ngx_http_request_t *r,
    ngx_uint_t status, const char *type, ngx_http_asana_hook_out_t *out);


ngx_int_t
ngx_http_asana_hook_api_handler(ngx_http_request_t *r)
{
    u_char                          *p, *last;
    size_t                           len;
    ngx_int_t                        rc;
    ngx_uint_t                       hooks;
    ngx_http_core_loc_conf_t        *clcf;
    ngx_http_asana_hook_zone_t      *zone;
    ngx_http_asana_hook_args_t       args;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);
    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    zone = ahcf->api->data;

    p = r->uri.data + ngx_min(clcf->name.len, r->uri.len);
    last = r->uri.data + r->uri.len;

    while (p < last && *p == '/') {
        p++;
    }

    len = last - p;
    hooks = (len == 5 && ngx_strncmp(p, "hooks", 5) == 0);

    if (len && !hooks && !(len == 7 && ngx_strncmp(p, "metrics", 7) == 0)) {
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_NOT_FOUND,
                                             "no such call; there are /, "
                                             "/hooks and /metrics");
    }

    rc = ngx_http_asana_hook_api_method(r, hooks && ahcf->api_write);

    if (rc != NGX_DECLINED) {
        return rc;
    }

    if (hooks) {
        return ngx_http_asana_hook_api_hooks(r, zone);
    }

    if (ngx_http_asana_hook_api_args(r, 0, &args)) {
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_BAD_REQUEST,
                                             "this call has no arguments");
    }

    return len ? ngx_http_asana_hook_api_metrics(r, zone)
               : ngx_http_asana_hook_api_info(r, zone);
}


/* NGX_DECLINED: the call goes on, all else is what its answer returned */

static ngx_int_t
ngx_http_asana_hook_api_method(ngx_http_request_t *r, ngx_uint_t write)
{
    ngx_str_t  allow;

    if ((r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))
        || (write && (r->method & (NGX_HTTP_PUT|NGX_HTTP_DELETE))))
    {
        if (r->headers_in.content_length_n > 0 || r->headers_in.chunked) {
            return ngx_http_asana_hook_api_error(r, NGX_HTTP_BAD_REQUEST,
                                                 "a body has no meaning here");
        }

        return NGX_DECLINED;
    }

    if (write) {
        ngx_str_set(&allow, "GET, HEAD, OPTIONS, PUT, DELETE");

    } else {
        ngx_str_set(&allow, "GET, HEAD, OPTIONS");
    }

    if (ngx_http_asana_hook_add_header(r, "Allow", &allow) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (r->method == NGX_HTTP_OPTIONS) {
        return ngx_http_asana_hook_api_send(r, NGX_HTTP_NO_CONTENT, NULL,
                                            NULL);
    }

    return ngx_http_asana_hook_api_error(r, NGX_HTTP_NOT_ALLOWED,
                                         "this method is not allowed here; "
                                         "PUT and DELETE of /hooks need "
                                         "\\\"write=on\\\"");
}


static ngx_int_t
ngx_http_asana_hook_api_hooks(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone)
{
    const char                  *error;
    ngx_uint_t                   allowed;
    ngx_http_asana_hook_args_t   args;

    switch (r->method) {

    case NGX_HTTP_PUT:
        allowed = 1 << NGX_HTTP_ASANA_HOOK_ARG_KEY;
        break;

    case NGX_HTTP_DELETE:
        allowed = 1 << NGX_HTTP_ASANA_HOOK_ARG_KEY
                  | 1 << NGX_HTTP_ASANA_HOOK_ARG_ID;
        break;

    default: /* NGX_HTTP_GET, NGX_HTTP_HEAD */
        allowed = 1 << NGX_HTTP_ASANA_HOOK_ARG_KEY
                  | 1 << NGX_HTTP_ASANA_HOOK_ARG_AFTER
                  | 1 << NGX_HTTP_ASANA_HOOK_ARG_LIMIT;
    }

    error = ngx_http_asana_hook_api_args(r, allowed, &args);

    if (error) {
        return ngx_http_asana_hook_api_error(r, args.status, error);
    }

    if (r->method & (NGX_HTTP_PUT|NGX_HTTP_DELETE)) {
        return ngx_http_asana_hook_api_write(r, zone, &args);
    }

    if (args.given == 1 << NGX_HTTP_ASANA_HOOK_ARG_KEY) {
        return ngx_http_asana_hook_api_key(r, zone,
                                     &args.value[NGX_HTTP_ASANA_HOOK_ARG_KEY],
                                     NGX_HTTP_OK);
    }

    if (args.given & 1 << NGX_HTTP_ASANA_HOOK_ARG_KEY) {
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_BAD_REQUEST,
                                             "\\\"key\\\" goes alone");
    }

    return ngx_http_asana_hook_api_list(r, zone, &args);
}


static ngx_int_t
ngx_http_asana_hook_api_info(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone)
{
    uint64_t                     commits;
    ngx_uint_t                   i, entries, free;
    ngx_http_asana_hook_out_t    out;
    ngx_http_asana_hook_stat_t   stat;

    ngx_http_asana_hook_api_start(&out, r);
    ngx_http_asana_hook_zone_usage(zone, &entries, &free);

    ngx_http_asana_hook_out(&out, "{\"zone\":\"");
    ngx_http_asana_hook_out_json(&out, &zone->name);
    ngx_http_asana_hook_out(&out,
                            "\",\"version\":\"" NGX_HTTP_ASANA_HOOK_VERSION
                            "\",\"size\":%uz,\"free\":%ui,\"entries\":%ui,",
                            (size_t) (zone->shpool->end
                                      - (u_char *) zone->shpool),
                            free, entries);

    commits = 0;

    for (i = 0; i <= NGX_HTTP_ASANA_HOOK_BUCKETS; i++) {
        commits += zone->counters->commits.bucket[i];
    }

    if (ngx_http_asana_hook_store_stat(zone->store, &stat, r->connection->log)
        == NGX_OK)
    {
        ngx_http_asana_hook_out(&out,
                                "\"store\":{\"keys\":%uL,\"secrets\":%uL,"
                                "\"pending\":%uL,\"size\":%uL,\"max_size\":%i,"
                                "\"commits\":%uL},",
                                stat.keys, stat.secrets, stat.pending,
                                stat.size, zone->max_size, commits);

    } else {
        ngx_http_asana_hook_out(&out, "\"store\":null,");
    }

    ngx_http_asana_hook_out_counters(&out, zone->counters);
    ngx_http_asana_hook_out(&out, "}\n");

    return ngx_http_asana_hook_api_send(r, NGX_HTTP_OK, "application/json",
                                        &out);
}


static ngx_int_t
ngx_http_asana_hook_api_metrics(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone)
{
    ngx_int_t                   rc;
    ngx_http_asana_hook_out_t   out;
    ngx_http_asana_hook_stat_t  stat;

    ngx_http_asana_hook_api_start(&out, r);

    rc = ngx_http_asana_hook_store_stat(zone->store, &stat,
                                        r->connection->log);

    ngx_http_asana_hook_metrics(&out, zone, rc == NGX_OK ? &stat : NULL);

    return ngx_http_asana_hook_api_send(r, NGX_HTTP_OK,
                                        "text/plain; version=0.0.4", &out);
}


static ngx_int_t
ngx_http_asana_hook_api_list(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_args_t *args)
{
    ngx_int_t                    rc;
    ngx_http_asana_hook_out_t    out;
    ngx_http_asana_hook_set_t    set;
    ngx_http_asana_hook_page_t   page;

    ngx_http_asana_hook_api_start(&out, r);
    ngx_http_asana_hook_out(&out, "{\"hooks\":[");

    ngx_memzero(&set, sizeof(ngx_http_asana_hook_set_t));
    set.pool = r->pool;

    page.out = &out;
    page.zone = zone;
    page.left = args->limit;
    page.last.len = 0;
    page.last.data = page.buf;

    rc = ngx_http_asana_hook_store_list(zone->store,
                                   &args->value[NGX_HTTP_ASANA_HOOK_ARG_AFTER],
                                   &set, ngx_http_asana_hook_api_page, &page,
                                   r->connection->log);

    if (rc == NGX_ERROR) {
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                             "the store cannot be read; see "
                                             "the error log");
    }

    if (rc == NGX_DONE) {
        ngx_http_asana_hook_out(&out, "],\"next\":\"");
        ngx_http_asana_hook_out_escaped(&out, &page.last);
        ngx_http_asana_hook_out(&out, "\"}\n");

    } else {
        ngx_http_asana_hook_out(&out, "],\"next\":null}\n");
    }

    return ngx_http_asana_hook_api_send(r, NGX_HTTP_OK, "application/json",
                                        &out);
}


static ngx_int_t
ngx_http_asana_hook_api_page(void *data, ngx_str_t *key,
    ngx_http_asana_hook_set_t *set)
{
    ngx_http_asana_hook_page_t *page = data;

    ngx_http_asana_hook_set_expire(set, page->zone->pending);

    if (set->n == 0) {
        return NGX_OK;
    }

    if (page->left == 0
        || (page->last.len && page->out->size > NGX_HTTP_ASANA_HOOK_PAGE))
    {
        return NGX_DONE;
    }

    if (page->last.len) {
        ngx_http_asana_hook_out(page->out, ",");
    }

    ngx_http_asana_hook_zone_update(page->zone, key,
                                    ngx_hash_key(key->data, key->len), set);
    ngx_http_asana_hook_out_hook(page->out, page->zone, key, set);

    page->left--;
    page->last.len = key->len;
    ngx_memcpy(page->buf, key->data, key->len);

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_api_key(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone, ngx_str_t *key, ngx_uint_t status)
{
    ngx_int_t                   rc;
    ngx_http_asana_hook_out_t   out;
    ngx_http_asana_hook_set_t   set;

    ngx_memzero(&set, sizeof(ngx_http_asana_hook_set_t));
    set.pool = r->pool;

    rc = ngx_http_asana_hook_zone_find(zone, key,
                                       ngx_hash_key(key->data, key->len),
                                       &set, r->connection->log);

    if (rc == NGX_ERROR) {
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                             "the store cannot be read; see "
                                             "the error log");
    }

    /* what was put may have been revoked since */

    if (rc == NGX_DECLINED && r->method != NGX_HTTP_PUT) {
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_NOT_FOUND,
                                             "no secret is held for this key");
    }

    ngx_http_asana_hook_api_start(&out, r);
    ngx_http_asana_hook_out_hook(&out, zone, key, &set);
    ngx_http_asana_hook_out(&out, "\n");

    ngx_http_asana_hook_set_wipe(&set);

    return ngx_http_asana_hook_api_send(r, status, "application/json", &out);
}


static ngx_int_t
ngx_http_asana_hook_api_write(ngx_http_request_t *r,
    ngx_http_asana_hook_zone_t *zone, ngx_http_asana_hook_args_t *args)
{
    ngx_str_t                       *key;
    ngx_pool_cleanup_t              *cln;
    ngx_http_asana_hook_op_t        *op;
    ngx_http_asana_hook_write_t     *w;
    ngx_http_asana_hook_headers_t    h;

    key = &args->value[NGX_HTTP_ASANA_HOOK_ARG_KEY];

    if (key->len == 0) {
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_BAD_REQUEST,
                                             "\\\"key\\\" is missing");
    }

    ngx_http_asana_hook_headers(r, &h);

    if (r->method == NGX_HTTP_PUT
        && (h.secrets != 1 || !ngx_http_asana_hook_secret_valid(&h.secret)))
    {
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_BAD_REQUEST,
                                             "one X-Hook-Secret is needed, of "
                                             "16 to 255 visible ASCII "
                                             "characters");
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_asana_hook_write_t));
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    op = ngx_http_asana_hook_zone_op(zone, NGX_HTTP_ASANA_HOOK_REMOVE, key,
                                     NULL, r->connection->log);
    if (op == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    w = cln->data;
    w->r = r;
    w->op = op;
    w->zone = zone;
    w->key = *key;

    op->data = w;
    op->handler = ngx_http_asana_hook_api_written;
    op->all = !(args->given & 1 << NGX_HTTP_ASANA_HOOK_ARG_ID);
    ngx_memcpy(op->id, args->id, NGX_HTTP_ASANA_HOOK_ID_LEN);

    if (r->method == NGX_HTTP_PUT) {
        op->type = NGX_HTTP_ASANA_HOOK_PUT;
        op->secret_len = h.secret.len;
        ngx_memcpy(op->secret, h.secret.data, h.secret.len);

        if (ngx_http_asana_hook_secret_id(h.secret.data, h.secret.len, op->id)
            != NGX_OK)
        {
            ngx_http_asana_hook_op_free(op);
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (ngx_http_asana_hook_store_post(zone->store, op) == NGX_OK) {
        return ngx_http_asana_hook_api_outcome(w);
    }

    cln->handler = ngx_http_asana_hook_api_cleanup;
    r->main->count++;

    return NGX_DONE;
}


static void
ngx_http_asana_hook_api_cleanup(void *data)
{
    ngx_http_asana_hook_write_t *w = data;

    if (w->op) {
        w->op->data = NULL;
    }
}


static void
ngx_http_asana_hook_api_written(ngx_http_asana_hook_op_t *op)
{
    ngx_connection_t             *c;
    ngx_http_request_t           *r;
    ngx_http_asana_hook_write_t  *w;

    w = op->data;

    if (w == NULL) {
        ngx_http_asana_hook_op_free(op);
        return;
    }

    r = w->r;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_http_finalize_request(r, ngx_http_asana_hook_api_outcome(w));
    ngx_http_run_posted_requests(c);
}


static ngx_int_t
ngx_http_asana_hook_api_outcome(ngx_http_asana_hook_write_t *w)
{
    ngx_int_t            rc;
    ngx_uint_t           created;
    ngx_http_request_t  *r;

    r = w->r;
    rc = w->op->rc;
    created = w->op->created;

    ngx_http_asana_hook_op_free(w->op);
    w->op = NULL;

    switch (rc) {

    case NGX_OK:

        if (r->method == NGX_HTTP_PUT) {
            return ngx_http_asana_hook_api_key(r, w->zone, &w->key,
                                               created ? NGX_HTTP_CREATED
                                                       : NGX_HTTP_OK);
        }

        ngx_http_asana_hook_zone_forget(w->zone, &w->key,
                                        ngx_hash_key(w->key.data, w->key.len));

        return ngx_http_asana_hook_api_send(r, NGX_HTTP_NO_CONTENT, NULL,
                                            NULL);

    case NGX_DECLINED:

        if (r->method == NGX_HTTP_PUT) {
            return ngx_http_asana_hook_api_error(r, NGX_HTTP_CONFLICT,
                                                 "the key has as many active "
                                                 "secrets as max_secrets "
                                                 "allows; revoke one first");
        }

        return ngx_http_asana_hook_api_error(r, NGX_HTTP_NOT_FOUND,
                                             "no such secret is held");

    case NGX_BUSY:
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                             "the store is full; raise "
                                             "max_size");

    default: /* NGX_ERROR */
        return ngx_http_asana_hook_api_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                             "the store cannot be written; "
                                             "see the error log");
    }
}


/* the text is part of a JSON string */

static ngx_int_t
ngx_http_asana_hook_api_error(ngx_http_request_t *r, ngx_uint_t status,
    const char *text)
{
    ngx_http_asana_hook_out_t  out;

    ngx_http_asana_hook_api_start(&out, r);
    ngx_http_asana_hook_out(&out, "{\"error\":\"%s\"}\n", text);

    return ngx_http_asana_hook_api_send(r, status, "application/json", &out);
}


static ngx_int_t
ngx_http_asana_hook_api_send(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, ngx_http_asana_hook_out_t *out)
{
    ngx_int_t  rc;
    ngx_str_t  value;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_str_set(&value, "no-store");

    if ((out && out->failed)
        || ngx_http_asana_hook_add_header(r, "Cache-Control", &value)
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->headers_out.status = status;

    if (out) {
        r->headers_out.content_length_n = (off_t) out->size;
        r->headers_out.content_type.data = (u_char *) type;
        r->headers_out.content_type.len = ngx_strlen(type);
        r->headers_out.content_type_len = r->headers_out.content_type.len;

        out->last->buf->last_buf = (r == r->main) ? 1 : 0;
        out->last->buf->last_in_chain = 1;
    }

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only || out == NULL) {
        return rc;
    }

    return ngx_http_output_filter(r, out->head);
}


static void
ngx_http_asana_hook_api_start(ngx_http_asana_hook_out_t *out,
    ngx_http_request_t *r)
{
    ngx_memzero(out, sizeof(ngx_http_asana_hook_out_t));
    out->pool = r->pool;
}
