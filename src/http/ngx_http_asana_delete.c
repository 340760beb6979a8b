
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * The gateway: a webhook that Asana has deleted sends nothing any more, and
 * its secret is in the way of the next one.  Who reads the answer may create
 * that at once.
 */


#include "ngx_http_asana_delete.h"


static ngx_int_t ngx_http_asana_delete_forget(ngx_http_asana_hold_t *hold);
static ngx_int_t ngx_http_asana_delete_outcome(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);


void
ngx_http_asana_delete_gid(ngx_http_request_t *r, ngx_str_t *gid)
{
    u_char  *last;

    ngx_str_null(gid);

    if (r->method != NGX_HTTP_DELETE) {
        return;
    }

    last = r->uri.data + r->uri.len;
    gid->data = last;

    while (gid->data > r->uri.data && gid->data[-1] != '/') {
        gid->data--;
    }

    gid->len = last - gid->data;

    if (ngx_http_asana_hold_gid(gid->data, gid->len) != NGX_OK) {
        gid->len = 0;
    }
}


void
ngx_http_asana_delete(ngx_http_asana_hold_t *hold, ngx_str_t *gid)
{
    hold->status = NGX_HTTP_OK;
    hold->whole = ngx_http_asana_delete_forget;

    hold->ctx->webhook = *gid;
}


static ngx_int_t
ngx_http_asana_delete_forget(ngx_http_asana_hold_t *hold)
{
    ngx_asana_task_t      *task;
    ngx_http_asana_ctx_t  *ctx;

    ctx = hold->ctx;

    task = ngx_asana_task_create(NGX_ASANA_FORGET, NULL,
                                 ctx->r->connection->log);
    if (task == NULL) {
        return ngx_http_asana_delete_outcome(ctx, NGX_ASANA_FAILED);
    }

    ngx_asana_task_set_gid(task, &ctx->webhook);

    return ngx_http_asana_request_change(ctx, task,
                                         ngx_http_asana_delete_outcome);
}


static ngx_int_t
ngx_http_asana_delete_outcome(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_log_t              *log;
    ngx_http_asana_word_e   word;
    ngx_http_asana_hold_t  *hold;

    hold = ctx->data;
    log = ctx->r->connection->log;

    switch (rc) {

    case NGX_ASANA_CHANGED:
        word = NGX_HTTP_ASANA_REVOKED;
        break;

    case NGX_ASANA_ABSENT:
        ngx_log_error(hold->log_level, log, 0,
                      "asana_hook: the zone \"%V\" has no secret of the "
                      "deleted webhook \"%V\"; if it was created without the "
                      "gateway, \"asana-hook revoke\" revokes its secret",
                      &ctx->azcf->name, &ctx->webhook);

        word = NGX_HTTP_ASANA_UNMATCHED;
        ctx->cause = "the zone has no secret of a deleted webhook";
        break;

    default: /* NGX_ASANA_FAILED */
        ngx_log_error(NGX_LOG_CRIT, log, 0,
                      "asana_hook: the secret of the deleted webhook \"%V\" "
                      "could not be revoked in the zone \"%V\"; \"asana-hook "
                      "revoke\" revokes it when the store can be written",
                      &ctx->webhook, &ctx->azcf->name);

        word = NGX_HTTP_ASANA_ERROR;
        ctx->cause = "the secret of a deleted webhook could not be revoked";
    }

    return ngx_http_asana_request_finish(ctx, word, NGX_DECLINED, NULL);
}
