
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_hook.h"

#include <openssl/crypto.h>


typedef struct {
    ngx_uint_t                     secrets;
    ngx_uint_t                     signatures;
    ngx_str_t                      secret;
    ngx_str_t                      signature;
} ngx_http_asana_hook_headers_t;


static ngx_http_asana_hook_ctx_t *ngx_http_asana_hook_create_ctx(
    ngx_http_request_t *r, ngx_http_asana_hook_zone_t *zone);
static void ngx_http_asana_hook_cleanup(void *data);
static void ngx_http_asana_hook_headers(ngx_http_request_t *r,
    ngx_http_asana_hook_headers_t *h);
static ngx_uint_t ngx_http_asana_hook_bypass(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hook_handshake(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_headers_t *h);
static ngx_uint_t ngx_http_asana_hook_secret_valid(ngx_str_t *secret);
static ngx_int_t ngx_http_asana_hook_enroll_policy(ngx_http_request_t *r,
    ngx_http_asana_hook_policy_e *policy);
static ngx_int_t ngx_http_asana_hook_enroll(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, u_char *id,
    ngx_http_asana_hook_policy_e policy);
static void ngx_http_asana_hook_enroll_handler(ngx_http_asana_hook_op_t *op);
static ngx_uint_t ngx_http_asana_hook_active(ngx_http_asana_hook_ctx_t *ctx);
static ngx_int_t ngx_http_asana_hook_enrolled(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy,
    ngx_int_t rc);
static ngx_int_t ngx_http_asana_hook_delivery(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_headers_t *h);
static void ngx_http_asana_hook_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_asana_hook_verify(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx);
static ngx_http_asana_hook_secret_t **ngx_http_asana_hook_candidates(
    ngx_http_request_t *r, ngx_http_asana_hook_ctx_t *ctx);
static int ngx_libc_cdecl ngx_http_asana_hook_cmp_candidates(const void *one,
    const void *two);
static ngx_int_t ngx_http_asana_hook_verified(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_secret_t *s);
static ngx_int_t ngx_http_asana_hook_reject(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_status_e status,
    const char *reason);
static ngx_int_t ngx_http_asana_hook_answer(ngx_http_request_t *r);
static void ngx_http_asana_hook_identify(ngx_http_asana_hook_ctx_t *ctx,
    u_char *id);


static ngx_conf_enum_t  ngx_http_asana_hook_policies[] = {
    { ngx_string("first"), NGX_HTTP_ASANA_HOOK_FIRST },
    { ngx_string("open"), NGX_HTTP_ASANA_HOOK_OPEN },
    { ngx_string("off"), NGX_HTTP_ASANA_HOOK_OFF },
    { ngx_null_string, 0 }
};


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
    ngx_http_asana_hook_ctx_t       *ctx;
    ngx_http_asana_hook_zone_t      *zone;
    ngx_http_asana_hook_headers_t    h;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    if (r != r->main) {
        return NGX_DECLINED;
    }

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (ahcf->shm_zone == NULL) {
        return NGX_DECLINED;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    if (ctx) {
        return ctx->rc;
    }

    zone = ahcf->shm_zone->data;

    ctx = ngx_http_asana_hook_create_ctx(r, zone);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_complex_value(r, &zone->key, &ctx->key) != NGX_OK) {
        ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_http_asana_hook_headers(r, &h);

    if (r->method == NGX_HTTP_POST && h.secrets) {
        return ngx_http_asana_hook_handshake(r, ctx, &h);
    }

    if (ngx_http_asana_hook_bypass(r)) {
        ctx->status = NGX_HTTP_ASANA_HOOK_BYPASS;
        ctx->rc = NGX_DECLINED;
        return NGX_DECLINED;
    }

    return ngx_http_asana_hook_delivery(r, ctx, &h);
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
    ctx->identified = 0;
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

    ngx_http_asana_hook_set_wipe(&ctx->set);
}


static void
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

        if (header[i].key.len == ngx_http_asana_hook_secret_name.len
            && ngx_strncmp(header[i].lowcase_key,
                           ngx_http_asana_hook_secret_name.data,
                           ngx_http_asana_hook_secret_name.len)
               == 0)
        {
            h->secrets++;
            h->secret = header[i].value;
            continue;
        }

        if (header[i].key.len == ngx_http_asana_hook_signature_name.len
            && ngx_strncmp(header[i].lowcase_key,
                           ngx_http_asana_hook_signature_name.data,
                           ngx_http_asana_hook_signature_name.len)
               == 0)
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


static ngx_int_t
ngx_http_asana_hook_handshake(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_headers_t *h)
{
    u_char                         id[NGX_HTTP_ASANA_HOOK_ID_LEN];
    const char                    *reason;
    ngx_int_t                      rc;
    ngx_uint_t                     i;
    ngx_http_asana_hook_secret_t  *s;
    ngx_http_asana_hook_policy_e   policy;

    if (h->signatures) {
        reason = "it also carries \"X-Hook-Signature\"";

    } else if (h->secrets > 1) {
        reason = "it carries \"X-Hook-Secret\" more than once";

    } else if (!ngx_http_asana_hook_secret_valid(&h->secret)) {
        reason = "\"X-Hook-Secret\" is not 16 to 255 visible ASCII characters";

    } else if (ctx->key.len == 0
               || ctx->key.len > NGX_HTTP_ASANA_HOOK_MAX_KEY)
    {
        reason = "its key is empty or longer than 480 bytes";

    } else {
        reason = NULL;
    }

    if (reason) {
        (void) ngx_http_asana_hook_reject(r, ctx,
                                          NGX_HTTP_ASANA_HOOK_MALFORMED,
                                          reason);
        return NGX_HTTP_BAD_REQUEST;
    }

    ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;
    ctx->secret = h->secret;
    ctx->hash = ngx_crc32_short(ctx->key.data, ctx->key.len);

    if (ngx_http_asana_hook_secret_id(h->secret.data, h->secret.len, id)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ngx_http_asana_hook_enroll_policy(r, &policy) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rc = ngx_http_asana_hook_zone_find(ctx->zone, &ctx->key, ctx->hash,
                                       &ctx->set, r->connection->log);

    if (rc == NGX_ERROR) {
        return ngx_http_asana_hook_enrolled(r, ctx, policy, NGX_ERROR);
    }

    s = (ngx_http_asana_hook_secret_t *) ctx->set.start;

    for (i = 0; i < ctx->set.n; i++) {

        if (s->len == h->secret.len
            && CRYPTO_memcmp(s->data, h->secret.data, s->len) == 0)
        {
            ngx_http_asana_hook_identify(ctx, id);
            return ngx_http_asana_hook_enrolled(r, ctx, policy, NGX_OK);
        }

        s = ngx_http_asana_hook_secret_next(s);
    }

    return ngx_http_asana_hook_enroll(r, ctx, id, policy);
}


static ngx_uint_t
ngx_http_asana_hook_secret_valid(ngx_str_t *secret)
{
    size_t  i;

    if (secret->len < NGX_HTTP_ASANA_HOOK_MIN_SECRET
        || secret->len > NGX_HTTP_ASANA_HOOK_MAX_SECRET)
    {
        return 0;
    }

    for (i = 0; i < secret->len; i++) {
        if (secret->data[i] <= ' ' || secret->data[i] > '~') {
            return 0;
        }
    }

    return 1;
}


ngx_int_t
ngx_http_asana_hook_policy(ngx_str_t *value,
    ngx_http_asana_hook_policy_e *policy)
{
    ngx_conf_enum_t  *e;

    for (e = ngx_http_asana_hook_policies; e->name.len; e++) {
        if (e->name.len == value->len
            && ngx_strncmp(e->name.data, value->data, value->len) == 0)
        {
            *policy = e->value;
            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_asana_hook_enroll_policy(ngx_http_request_t *r,
    ngx_http_asana_hook_policy_e *policy)
{
    ngx_str_t                        value;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    if (ahcf->enroll == NULL) {
        *policy = NGX_HTTP_ASANA_HOOK_FIRST;
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, ahcf->enroll, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_asana_hook_policy(&value, policy) == NGX_OK) {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                  "asana_hook: \"asana_hook_enroll\" has the unknown value "
                  "\"%V\", taken for \"off\"; use \"first\", \"open\" or "
                  "\"off\"", &value);

    *policy = NGX_HTTP_ASANA_HOOK_OFF;

    return NGX_OK;
}


static ngx_int_t
ngx_http_asana_hook_enroll(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, u_char *id,
    ngx_http_asana_hook_policy_e policy)
{
    ngx_int_t                      rc;
    ngx_uint_t                     i;
    ngx_http_asana_hook_op_t      *op;
    ngx_http_asana_hook_secret_t  *s;

    /* the store decides; what is refused for sure need not go there */

    if (policy == NGX_HTTP_ASANA_HOOK_OFF
        || (policy == NGX_HTTP_ASANA_HOOK_FIRST
            && ngx_http_asana_hook_active(ctx)))
    {
        return ngx_http_asana_hook_enrolled(r, ctx, policy, NGX_DECLINED);
    }

    op = ngx_http_asana_hook_op_create(&ctx->key, ctx->set.n,
                                       r->connection->log);
    if (op == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    op->type = NGX_HTTP_ASANA_HOOK_ENROLL;
    op->policy = policy;
    op->now = ngx_time();
    op->inactive = ctx->zone->inactive;
    op->max_secrets = ctx->zone->max_secrets;
    op->secret_len = ctx->secret.len;
    ngx_memcpy(op->secret, ctx->secret.data, ctx->secret.len);
    ngx_memcpy(op->id, id, NGX_HTTP_ASANA_HOOK_ID_LEN);

    s = (ngx_http_asana_hook_secret_t *) ctx->set.start;

    for (i = 0; i < ctx->set.n; i++) {
        ngx_memcpy(op->seen[i].id, s->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        op->seen[i].verified = s->verified;
        s = ngx_http_asana_hook_secret_next(s);
    }

    op->nseen = ctx->set.n;

    op->handler = ngx_http_asana_hook_enroll_handler;
    op->data = r;

    if (ngx_http_asana_hook_store_post(ctx->zone->store, op) == NGX_AGAIN) {
        ngx_http_asana_hook_set_wipe(&ctx->set);

        ctx->op = op;
        ctx->policy = policy;
        ctx->rc = NGX_DONE;

        return NGX_DONE;
    }

    rc = op->rc;
    ngx_http_asana_hook_op_free(op);

    if (rc == NGX_OK) {
        ngx_http_asana_hook_identify(ctx, id);
    }

    return ngx_http_asana_hook_enrolled(r, ctx, policy, rc);
}


static void
ngx_http_asana_hook_enroll_handler(ngx_http_asana_hook_op_t *op)
{
    ngx_int_t                   rc;
    ngx_connection_t           *c;
    ngx_http_request_t         *r;
    ngx_http_asana_hook_ctx_t  *ctx;

    r = op->data;

    if (r == NULL) {

        /* the client has gone; its secret is stored all the same */

        ngx_http_asana_hook_op_free(op);
        return;
    }

    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    rc = op->rc;
    ctx->op = NULL;

    if (rc == NGX_OK) {
        ngx_http_asana_hook_identify(ctx, op->id);
    }

    ngx_http_asana_hook_op_free(op);

    (void) ngx_http_asana_hook_enrolled(r, ctx, ctx->policy, rc);

    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);

    ngx_http_run_posted_requests(c);
}


static ngx_uint_t
ngx_http_asana_hook_active(ngx_http_asana_hook_ctx_t *ctx)
{
    time_t                         now;
    ngx_uint_t                     i;
    ngx_http_asana_hook_secret_t  *s;

    now = ngx_time();
    s = (ngx_http_asana_hook_secret_t *) ctx->set.start;

    for (i = 0; i < ctx->set.n; i++) {

        if (now - ngx_http_asana_hook_secret_seen(s) < ctx->zone->inactive) {
            return 1;
        }

        s = ngx_http_asana_hook_secret_next(s);
    }

    return 0;
}


/* answers a handshake by its outcome */

static ngx_int_t
ngx_http_asana_hook_enrolled(ngx_http_request_t *r,
    ngx_http_asana_hook_ctx_t *ctx, ngx_http_asana_hook_policy_e policy,
    ngx_int_t rc)
{
    const char                      *reason;
    ngx_http_asana_hook_loc_conf_t  *ahcf;

    ngx_http_asana_hook_set_wipe(&ctx->set);

    switch (rc) {

    case NGX_OK:
        ctx->status = NGX_HTTP_ASANA_HOOK_HANDSHAKE;
        ctx->rc = NGX_OK;

        /* "mirror" and "try_files" come later in this phase and are skipped */
        r->content_handler = ngx_http_asana_hook_answer;

        return NGX_OK;

    case NGX_DECLINED:
        break;

    default: /* NGX_BUSY, NGX_ERROR: the store has logged it */
        ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;
        ctx->rc = NGX_HTTP_SERVICE_UNAVAILABLE;
        return NGX_HTTP_SERVICE_UNAVAILABLE;
    }

    switch (policy) {

    case NGX_HTTP_ASANA_HOOK_FIRST:
        reason = "its key already has an active secret; give each webhook a "
                 "URL of its own, wait until the old secret is inactive, or "
                 "set \"asana_hook_enroll\" to \"open\"";
        break;

    case NGX_HTTP_ASANA_HOOK_OPEN:
        reason = "its key already has as many active secrets as \"max_secrets\""
                 " allows; give each webhook a URL of its own, or raise it";
        break;

    default: /* NGX_HTTP_ASANA_HOOK_OFF */
        reason = "\"asana_hook_enroll\" is \"off\" here; set it to \"first\" "
                 "while webhooks are created";
    }

    ahcf = ngx_http_get_module_loc_conf(r, ngx_http_asana_hook_module);

    ngx_log_error(ahcf->log_level, r->connection->log, 0,
                  "asana_hook: handshake refused by zone \"%V\": %s",
                  &ctx->zone->name, reason);

    ctx->status = NGX_HTTP_ASANA_HOOK_REFUSED;
    ctx->rc = ahcf->status;

    return ctx->rc;
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

    if (ctx->key.len == 0 || ctx->key.len > NGX_HTTP_ASANA_HOOK_MAX_KEY) {
        return ngx_http_asana_hook_reject(r, ctx, NGX_HTTP_ASANA_HOOK_UNKNOWN,
                                          "its key is empty or longer than "
                                          "480 bytes");
    }

    ctx->status = NGX_HTTP_ASANA_HOOK_ERROR;
    ctx->hash = ngx_crc32_short(ctx->key.data, ctx->key.len);

    rc = ngx_http_asana_hook_zone_find(ctx->zone, &ctx->key, ctx->hash,
                                       &ctx->set, r->connection->log);

    if (rc == NGX_ERROR) {
        return NGX_HTTP_SERVICE_UNAVAILABLE;
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
    ngx_http_asana_hook_main_conf_t *amcf;

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
            return NGX_HTTP_SERVICE_UNAVAILABLE;
        }

        if (rc == NGX_DECLINED) {
            return ngx_http_asana_hook_reject(r, ctx,
                                              NGX_HTTP_ASANA_HOOK_UNKNOWN,
                                              "no secret is held for its key");
        }
    }

    amcf = ngx_http_get_module_main_conf(r, ngx_http_asana_hook_module);

    candidate = ngx_http_asana_hook_candidates(r, ctx);
    if (candidate == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    s = NULL;
    found = 0;

    for (i = 0; i < ctx->set.n && !found; i++) {

        s = candidate[i];

        if (ngx_http_asana_hook_hmac(amcf->hmac, s->data, s->len,
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
    ngx_http_asana_hook_secret_t  *s;

    s = *(ngx_http_asana_hook_secret_t **) one;
    first = ngx_http_asana_hook_secret_seen(s);

    s = *(ngx_http_asana_hook_secret_t **) two;
    second = ngx_http_asana_hook_secret_seen(s);

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

    ctx->status = (rc == NGX_OK) ? NGX_HTTP_ASANA_HOOK_HEARTBEAT
                                 : NGX_HTTP_ASANA_HOOK_VERIFIED;

    ngx_http_asana_hook_identify(ctx, s->id);

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


static ngx_int_t
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
    ctx->rc = ahcf->status;

    return ctx->rc;
}


static ngx_int_t
ngx_http_asana_hook_answer(ngx_http_request_t *r)
{
    ngx_int_t                   rc;
    ngx_table_elt_t            *h;
    ngx_http_asana_hook_ctx_t  *ctx;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    if (ctx->status == NGX_HTTP_ASANA_HOOK_HANDSHAKE) {

        h = ngx_list_push(&r->headers_out.headers);
        if (h == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        h->hash = 1;
#if (nginx_version >= 1023000)
        h->next = NULL;
#endif
        ngx_str_set(&h->key, "X-Hook-Secret");
        h->value = ctx->secret;
    }

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = 0;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_send_special(r, NGX_HTTP_LAST);
}


static void
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
