
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The state of one decision.  Whoever waits, for a look-up or for a change,
 * does so here: what is under way knows the state, and the state knows what
 * is under way, so that either of them may end first.
 */


#include "ngx_http_asana_request.h"


static void ngx_http_asana_request_cleanup(void *data);
static void ngx_http_asana_request_answered(ngx_http_asana_ctx_t *ctx);
static void ngx_http_asana_request_turned(ngx_http_asana_ctx_t *ctx,
    ngx_uint_t status);
static ngx_http_asana_word_e ngx_http_asana_request_lost(
    ngx_http_asana_ctx_t *ctx);
static void ngx_http_asana_request_wait(ngx_http_asana_ctx_t *ctx);
static void ngx_http_asana_request_found(ngx_asana_lookup_t *lookup);
static void ngx_http_asana_request_listed(ngx_asana_listing_t *listing);
static void ngx_http_asana_request_changed(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome);
static void ngx_http_asana_request_step(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);
static void ngx_http_asana_request_event(ngx_http_asana_ctx_t *ctx);
static void ngx_http_asana_request_event_key(ngx_http_asana_ctx_t *ctx,
    ngx_str_t *key);


ngx_http_asana_ctx_t *
ngx_http_asana_request_create(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_asana_count_e count,
    ngx_http_asana_end_pt end)
{
    ngx_uint_t             counted;
    ngx_pool_cleanup_t    *cln;
    ngx_http_asana_ctx_t  *ctx;

    counted = 0;

    /* what an internal redirect brings again is not counted again */

    for (cln = r->pool->cleanup; cln; cln = cln->next) {

        if (cln->handler == ngx_http_asana_request_cleanup) {
            ctx = cln->data;
            counted |= (ctx->azcf == azcf
                        && ctx->count < NGX_ASANA_COUNT_GATEWAY
                        && ctx->word != NGX_HTTP_ASANA_UNCHECKED);
        }
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_asana_ctx_t));
    if (cln == NULL) {
        return NULL;
    }

    ctx = cln->data;
    ngx_memzero(ctx, offsetof(ngx_http_asana_ctx_t, signature));

    ctx->r = r;
    ctx->azcf = azcf;
    ctx->count = count;
    ctx->counted = counted && count < NGX_ASANA_COUNT_GATEWAY;
    ctx->end = end;

    ngx_asana_secrets_init(&ctx->secrets, (u_char *) ctx->buf,
                           NGX_HTTP_ASANA_SECRETS);

    cln->handler = ngx_http_asana_request_cleanup;

    ngx_http_set_ctx(r, ctx, ngx_http_asana_hook_module);

    return ctx;
}


static void
ngx_http_asana_request_cleanup(void *data)
{
    ngx_http_asana_ctx_t *ctx = data;

    if (ctx->task) {
        ngx_asana_task_detach(ctx->task);
    }

    if (ctx->asked) {
        ngx_asana_zone_cancel(ctx->azcf->zone, ctx->asked);
    }

    ngx_asana_secrets_wipe(&ctx->secrets);

    if (ctx->state != NGX_HTTP_ASANA_DONE
        && ctx->count < NGX_ASANA_COUNT_GATEWAY)
    {
        (void) ngx_http_asana_request_finish(ctx,
                                          ngx_http_asana_request_lost(ctx),
                                          NGX_HTTP_INTERNAL_SERVER_ERROR,
                                          NULL);
    }

    if (ctx->word == NGX_HTTP_ASANA_VERIFIED
        || ctx->word == NGX_HTTP_ASANA_HEARTBEAT)
    {
        ngx_http_asana_request_answered(ctx);
    }
}


/* what Asana got for a verified delivery, whatever has answered it */

static void
ngx_http_asana_request_answered(ngx_http_asana_ctx_t *ctx)
{
    ngx_uint_t           status;
    ngx_connection_t    *c;
    ngx_http_request_t  *r;
    ngx_asana_answer_e   answer;

    r = ctx->r;
    c = r->connection;
    status = ctx->verified.code ? ctx->verified.code : r->headers_out.status;

    if (!r->header_sent || ctx->left || c->error || c->timedout) {
        answer = NGX_ASANA_ANSWER_ABORTED;
        status = NGX_HTTP_CLIENT_CLOSED_REQUEST;

    } else if (status == NGX_HTTP_OK || status == NGX_HTTP_NO_CONTENT) {
        answer = NGX_ASANA_ANSWER_SUCCESS;

    } else {
        answer = ngx_min(ngx_max(status / 100, 2), 5)
                 - 2 + NGX_ASANA_ANSWER_2XX;
    }

    ctx->verified.code = (uint16_t) status;

    if (ngx_asana_zone_note(ctx->azcf->zone, &ctx->key, ctx->hash,
                            &ctx->verified, answer))
    {
        ngx_http_asana_request_turned(ctx, status);
    }
}


static void
ngx_http_asana_request_turned(ngx_http_asana_ctx_t *ctx, ngx_uint_t status)
{
    char                       *action;
    u_char                      buf[3 * NGX_ASANA_MAX_KEY];
    ngx_log_t                  *log;
    ngx_str_t                   name;
    const char                 *ref;
    ngx_http_log_ctx_t         *log_ctx;
    ngx_http_asana_loc_conf_t  *ahcf;

    ahcf = ngx_http_get_module_loc_conf(ctx->r, ngx_http_asana_hook_module);
    ref = ngx_http_asana_word_name(&ctx->key, &name, buf);

    /* the request is over, but its server is to be named, and no action */

    log = ctx->r->connection->log;
    action = log->action;
    log->action = NULL;

    log_ctx = log->data;
    log_ctx->request = ctx->r;

    if (ctx->verified.failing) {
        ngx_log_error(ahcf->log_level, log, 0,
                      "asana_hook: the webhook of key \"%s%V\" in zone \"%V\" "
                      "fails: Asana got %ui, and deletes it if that goes on "
                      "for 24 hours", ref, &name, &ctx->azcf->name, status);

    } else {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "asana_hook: the webhook of key \"%s%V\" in zone \"%V\" "
                      "succeeds again", ref, &name, &ctx->azcf->name);
    }

    log_ctx->request = NULL;
    log->action = action;
}


/*
 * The word if there is no decision: the client has gone before, or nginx has
 * ended the request because of its body.
 */

static ngx_http_asana_word_e
ngx_http_asana_request_lost(ngx_http_asana_ctx_t *ctx)
{
    return (ctx->r->err_status >= NGX_HTTP_INTERNAL_SERVER_ERROR)
           ? NGX_HTTP_ASANA_ERROR : NGX_HTTP_ASANA_ABORTED;
}


/* an internal redirect forgets the context but not the cleanup handler */

ngx_http_asana_ctx_t *
ngx_http_asana_request_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t    *cln;
    ngx_http_asana_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_asana_hook_module);

    if (ctx || !(r->internal || r->filter_finalize)) {
        return ctx;
    }

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_asana_request_cleanup) {
            return cln->data;
        }
    }

    return NULL;
}


ngx_int_t
ngx_http_asana_request_key(ngx_http_asana_ctx_t *ctx, const char **reason)
{
    u_char  *p, *last;

    if (ngx_http_complex_value(ctx->r, &ctx->azcf->key, &ctx->key) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ctx->key.len == 0 || ctx->key.len > NGX_ASANA_MAX_KEY) {
        *reason = "its key is empty or longer than 480 bytes";
        return NGX_DECLINED;
    }

    /* "$" of a regex lets a line feed through, which is no second door */

    last = ctx->key.data + ctx->key.len;

    for (p = ctx->key.data; p < last; p++) {
        if (*p < ' ' || *p == 0x7f) {
            *reason = "its key has a control character";
            return NGX_DECLINED;
        }
    }

    ctx->hash = ngx_murmur_hash2(ctx->key.data, ctx->key.len);

    return NGX_OK;
}


ngx_int_t
ngx_http_asana_request_find(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_step_pt step)
{
    ngx_int_t            rc;
    ngx_asana_lookup_t  *lookup;

    ngx_asana_secrets_wipe(&ctx->secrets);

    lookup = &ctx->lookup;

    lookup->key = ctx->key;
    lookup->hash = ctx->hash;
    lookup->secrets = &ctx->secrets;
    lookup->handler = ngx_http_asana_request_found;
    lookup->data = ctx;

    rc = ngx_asana_zone_find(ctx->azcf->zone, lookup);

    if (rc != NGX_AGAIN) {
        return step(ctx, rc);
    }

    ctx->asked = &lookup->queue;
    ctx->step = step;

    ngx_http_asana_request_wait(ctx);

    return NGX_DONE;
}


static void
ngx_http_asana_request_found(ngx_asana_lookup_t *lookup)
{
    ngx_http_asana_ctx_t *ctx = lookup->data;

    ctx->asked = NULL;

    ngx_http_asana_request_step(ctx, lookup->rc);
}


ngx_int_t
ngx_http_asana_request_list(ngx_http_asana_ctx_t *ctx,
    ngx_asana_listing_t *listing, ngx_http_asana_step_pt step)
{
    ngx_int_t  rc;

    listing->handler = ngx_http_asana_request_listed;
    listing->data = ctx;

    rc = ngx_asana_zone_list(ctx->azcf->zone, listing);

    if (rc != NGX_AGAIN) {
        return step(ctx, rc);
    }

    ctx->asked = &listing->queue;
    ctx->step = step;

    ngx_http_asana_request_wait(ctx);

    return NGX_DONE;
}


static void
ngx_http_asana_request_listed(ngx_asana_listing_t *listing)
{
    ngx_http_asana_ctx_t *ctx = listing->data;

    ctx->asked = NULL;

    ngx_http_asana_request_step(ctx, listing->rc);
}


ngx_int_t
ngx_http_asana_request_change(ngx_http_asana_ctx_t *ctx,
    ngx_asana_task_t *task, ngx_http_asana_step_pt step)
{
    task->handler = ngx_http_asana_request_changed;
    task->data = ctx;

    ngx_asana_secrets_wipe(&ctx->secrets);

    if (ngx_asana_zone_post(ctx->azcf->zone, task) != NGX_AGAIN) {
        return step(ctx, NGX_ASANA_FAILED);
    }

    ctx->state = NGX_HTTP_ASANA_STORE;
    ctx->task = task;
    ctx->step = step;

    ngx_http_asana_request_wait(ctx);

    return NGX_DONE;
}


static void
ngx_http_asana_request_changed(ngx_asana_task_t *task,
    ngx_asana_outcome_e outcome)
{
    ngx_http_asana_ctx_t *ctx = task->data;

    ctx->task = NULL;
    ctx->changed = task;
    ctx->reason = (outcome == NGX_ASANA_REFUSED) ? task->reason
                                                 : NGX_ASANA_REASON_NONE;

    ngx_http_asana_request_step(ctx, outcome);
}


/* a request that does not read would not see its client leave */

static void
ngx_http_asana_request_wait(ngx_http_asana_ctx_t *ctx)
{
    ngx_event_t         *rev;
    ngx_http_request_t  *r;

    r = ctx->r;

    if (ctx->count == NGX_ASANA_COUNT_GATEWAY || r->post_action) {

        /* the upstream looks after its client, "post_action" has none */

        return;
    }

    rev = r->connection->read;

    r->read_event_handler = ngx_http_test_reading;

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        r->connection->error = 1;
    }

    /* it may have left with the packet that brought its request */

    if (rev->pending_eof) {
        ngx_post_event(rev, &ngx_posted_events);
    }
}


/*
 * Where the client has gone, "post_action" may have taken the request to
 * another location; only the gateway still has something to say then.
 */

static void
ngx_http_asana_request_step(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->r;
    c = r->connection;

    if (ngx_http_get_module_ctx(r, ngx_http_asana_hook_module) != ctx
        && ctx->count != NGX_ASANA_COUNT_GATEWAY)
    {
        return;
    }

    ngx_http_set_log_request(c->log, r);

    rc = ctx->step(ctx, rc);

    /* after NGX_DONE the request may have ended */

    if (rc != NGX_DONE) {
        ctx->end(ctx, rc);
    }

    ngx_http_run_posted_requests(c);
}


void
ngx_http_asana_request_phases(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_http_request_t  *r;

    r = ctx->r;

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_core_run_phases;

    ngx_http_core_run_phases(r);
}


ngx_int_t
ngx_http_asana_request_finish(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_word_e word, ngx_int_t rc, const char *reason)
{
    ngx_uint_t                  event;
    ngx_asana_count_e           count;
    ngx_asana_counters_t       *counters;
    ngx_http_asana_loc_conf_t  *ahcf;

    ngx_asana_secrets_wipe(&ctx->secrets);

    ahcf = ngx_http_get_module_loc_conf(ctx->r, ngx_http_asana_hook_module);

    if (reason) {
        ngx_log_error(ahcf->log_level, ctx->r->connection->log, 0,
                      "asana_hook: %s by zone \"%V\": %s",
                      (ctx->count == NGX_ASANA_COUNT_HANDSHAKES)
                      ? "handshake refused" : "request rejected",
                      &ctx->azcf->name, reason);

        ctx->cause = reason;
    }

    count = ctx->count;

    /* the heartbeat of a pending secret gets what it wants */

    event = (ngx_http_asana_word_failures & 1 << word)
            && rc != NGX_OK
            && (!ctx->counted || count == NGX_ASANA_COUNT_GATEWAY);

    /* a failure of ours is no verdict that could be let pass */

    if (ahcf->dry_run
        && count == NGX_ASANA_COUNT_DELIVERIES
        && word >= NGX_HTTP_ASANA_PENDING
        && word <= NGX_HTTP_ASANA_ERROR
        && word != NGX_HTTP_ASANA_ABORTED
        && rc != NGX_HTTP_INTERNAL_SERVER_ERROR)
    {
        ctx->dry_run = 1;
        count = NGX_ASANA_COUNT_DRY_RUNS;
        rc = NGX_DECLINED;
    }

    ctx->state = NGX_HTTP_ASANA_DONE;
    ctx->word = word;
    ctx->rc = rc;

    if (!ctx->counted) {
        ctx->counted = 1;
        counters = ngx_asana_zone_counters(ctx->azcf->zone);
        (void) ngx_atomic_fetch_add(&counters->count[count][word], 1);
    }

    if (event) {
        ngx_http_asana_request_event(ctx);
    }

    return rc;
}


/* the id is also that of a secret which was refused */

static void
ngx_http_asana_request_event(ngx_http_asana_ctx_t *ctx)
{
    const char         *cause;
    ngx_asana_event_t   event;

    cause = ctx->cause;

    if (cause == NULL) {
        cause = (ctx->word == NGX_HTTP_ASANA_ABORTED)
                ? "its client left, or its body did not come whole"
                : "a failure of the server; the error log names it";
    }

    event.time = ngx_time();
    event.word = ctx->word;
    event.dry_run = ctx->dry_run;

    event.text[NGX_ASANA_EVENT_ID].len = ctx->id[0] ? sizeof(ctx->id) : 0;
    event.text[NGX_ASANA_EVENT_ID].data = ctx->id;

    event.text[NGX_ASANA_EVENT_ADDRESS] = ctx->r->connection->addr_text;

    event.text[NGX_ASANA_EVENT_REASON].len = ngx_strlen(cause);
    event.text[NGX_ASANA_EVENT_REASON].data = (u_char *) cause;

    ngx_http_asana_request_event_key(ctx, &event.text[NGX_ASANA_EVENT_KEY]);

    ngx_asana_events_add(ngx_asana_zone_events(ctx->azcf->zone), &event);
}


/* what was rejected by its header may have no key yet, the gateway has none */

static void
ngx_http_asana_request_event_key(ngx_http_asana_ctx_t *ctx, ngx_str_t *key)
{
    ngx_str_null(key);

    if (ctx->count == NGX_ASANA_COUNT_GATEWAY) {

        if (ctx->word == NGX_HTTP_ASANA_REFUSED && ctx->changed) {
            *key = ctx->changed->key;
        }

        return;
    }

    if (ctx->key.data) {
        *key = ctx->key;

    } else {
        (void) ngx_http_complex_value(ctx->r, &ctx->azcf->key, key);
    }
}


void
ngx_http_asana_request_word(ngx_http_asana_ctx_t *ctx, ngx_str_t *word)
{
    ngx_http_asana_word(word, (ctx->state != NGX_HTTP_ASANA_DONE
                               && ctx->count < NGX_ASANA_COUNT_GATEWAY)
                              ? ngx_http_asana_request_lost(ctx) : ctx->word,
                        ctx->dry_run);
}


void
ngx_http_asana_request_identify(ngx_http_asana_ctx_t *ctx, u_char *id)
{
    (void) ngx_hex_dump(ctx->id, id, NGX_ASANA_ID_LEN);
    ctx->identified = 1;
}
