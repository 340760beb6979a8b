
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_filter.h"


/* steps of a walk for one page: some 20,000 keys */
#define NGX_HTTP_ASANA_FILTER_WALKS  20


static ngx_int_t ngx_http_asana_filter_walk(ngx_http_asana_ctx_t *ctx);
static ngx_int_t ngx_http_asana_filter_walked(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);


ngx_int_t
ngx_http_asana_filter(ngx_http_asana_ctx_t *ctx, ngx_http_asana_args_t *args,
    ngx_http_asana_step_pt step)
{
    ngx_http_asana_filter_t  *filter;

    filter = ctx->data;

    if (!(args->given & (1 << NGX_HTTP_ASANA_ARG_Q
                         | 1 << NGX_HTTP_ASANA_ARG_HEALTH)))
    {
        /* one more tells whether there is another page */

        filter->listing.after = args->value[NGX_HTTP_ASANA_ARG_AFTER];
        filter->listing.limit = args->limit + 1;

        return ngx_http_asana_request_list(ctx, &filter->listing, step);
    }

    filter->step = step;
    filter->left = args->limit;
    filter->health = args->health;
    filter->text = args->value[NGX_HTTP_ASANA_ARG_Q];
    filter->next = args->value[NGX_HTTP_ASANA_ARG_AFTER];

    return ngx_http_asana_filter_walk(ctx);
}


static ngx_int_t
ngx_http_asana_filter_walk(ngx_http_asana_ctx_t *ctx)
{
    ngx_asana_task_t         *task;
    ngx_http_asana_filter_t  *filter;

    filter = ctx->data;

    task = ngx_asana_walk_create(&filter->next,
                                 filter->text.len ? &filter->text : NULL,
                                 ctx->r->connection->log);
    if (task == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    filter->walk = task->walk;
    filter->walk->limit = filter->left;
    filter->walk->health = filter->health;

    return ngx_http_asana_request_change(ctx, task,
                                         ngx_http_asana_filter_walked);
}


/* the task, and what it has found, goes when this returns */

static ngx_int_t
ngx_http_asana_filter_walked(ngx_http_asana_ctx_t *ctx, ngx_int_t rc)
{
    ngx_queue_t              *q;
    ngx_asana_walk_t         *walk;
    ngx_asana_listing_t      *listing;
    ngx_asana_walk_found_t   *found;
    ngx_http_asana_filter_t  *filter;

    filter = ctx->data;

    if (rc != NGX_ASANA_HELD) {
        return filter->step(ctx, NGX_ERROR);
    }

    walk = filter->walk;
    listing = &filter->listing;

    for (q = ngx_queue_head(&walk->found);
         q != ngx_queue_sentinel(&walk->found);
         q = ngx_queue_next(q))
    {
        found = ngx_queue_data(q, ngx_asana_walk_found_t, queue);

        if (listing->shown(listing, &found->key, &found->secrets) != NGX_OK) {

            /* the page is full: the next one begins behind what it shows */

            filter->next.len = 0;
            return filter->step(ctx, NGX_DONE);
        }

        filter->left--;
    }

    if (walk->end) {
        return filter->step(ctx, NGX_OK);
    }

    filter->next.len = walk->listing.after.len;
    filter->next.data = filter->buf;
    ngx_memcpy(filter->buf, walk->listing.after.data, filter->next.len);

    if (filter->left == 0
        || ++filter->walks == NGX_HTTP_ASANA_FILTER_WALKS)
    {
        return filter->step(ctx, NGX_DONE);
    }

    return ngx_http_asana_filter_walk(ctx);
}
