
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_HOLD_H_INCLUDED_
#define _NGX_HTTP_ASANA_HOLD_H_INCLUDED_


#include "ngx_http_asana_call.h"


typedef struct ngx_http_asana_hold_s  ngx_http_asana_hold_t;

/* The answer is whole.  NGX_DONE: it waits for a step; else it goes on. */
typedef ngx_int_t (*ngx_http_asana_hold_pt)(ngx_http_asana_hold_t *hold);


/* an answer of Asana at the gateway, from its call on; it is ctx->data */

struct ngx_http_asana_hold_s {
    ngx_http_asana_call_t         call;      /* must be first */
    ngx_http_asana_ctx_t         *ctx;
    ngx_uint_t                    log_level;
    ngx_uint_t                    status;    /* what is held; 0: nothing */
    ngx_uint_t                    reads;     /* 1: its body, which tells */
    ngx_http_asana_hold_pt        whole;

    u_char                       *start;     /* the answer so far */
    size_t                        len;
    size_t                        size;

    unsigned                      held:1;
    unsigned                      complete:1;
};


/* At configuration time: puts the filters into nginx's chains. */
void ngx_http_asana_hold_init(void);

/*
 * Returns a hold of nothing yet, which lives as long as the request and wipes
 * the answer at its end, or NULL.  A create call that it has is ended by its
 * answer.
 */
ngx_http_asana_hold_t *ngx_http_asana_hold_create(ngx_http_asana_ctx_t *ctx);

/* A gid is 1 to 32 digits: NGX_OK, else NGX_DECLINED. */
ngx_int_t ngx_http_asana_hold_gid(u_char *text, size_t len);

/* Ends the decision, and logs why; the answer goes on as it is. */
void ngx_http_asana_hold_unreadable(ngx_http_asana_hold_t *hold,
    const char *reason);

/* An "end" for what is decided when the answer is whole: sends it. */
void ngx_http_asana_hold_end(ngx_http_asana_ctx_t *ctx, ngx_int_t rc);


#endif /* _NGX_HTTP_ASANA_HOLD_H_INCLUDED_ */
