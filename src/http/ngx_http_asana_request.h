
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_HTTP_ASANA_REQUEST_H_INCLUDED_
#define _NGX_HTTP_ASANA_REQUEST_H_INCLUDED_


#include "ngx_http_asana_conf.h"
#include "ngx_http_asana_word.h"


typedef struct ngx_http_asana_ctx_s  ngx_http_asana_ctx_t;

/*
 * A step of a decision: rc is what the last one waited for.  Returns what the
 * phase or content handler is to return, NGX_DONE if there is another step.
 */
typedef ngx_int_t (*ngx_http_asana_step_pt)(ngx_http_asana_ctx_t *ctx,
    ngx_int_t rc);

typedef void (*ngx_http_asana_end_pt)(ngx_http_asana_ctx_t *ctx, ngx_int_t rc);

/* a delivery may be looked up again after its body; a handshake is stored */

typedef enum {
    NGX_HTTP_ASANA_LOOK = 0,
    NGX_HTTP_ASANA_BODY,
    NGX_HTTP_ASANA_STORE,
    NGX_HTTP_ASANA_DONE
} ngx_http_asana_state_e;

/* room for the usual one secret of a key, and a bit */
#define NGX_HTTP_ASANA_SECRETS  320

struct ngx_http_asana_ctx_s {
    ngx_http_request_t           *r;
    ngx_http_asana_zone_conf_t   *azcf;
    ngx_http_asana_state_e        state;
    ngx_http_asana_word_e         word;
    ngx_asana_count_e             count;      /* what its word is counted as */
    ngx_int_t                     rc;         /* when it is DONE */

    ngx_http_asana_step_pt        step;       /* when it does not wait */
    ngx_http_asana_end_pt         end;        /* after the last step */
    void                         *data;       /* of who created it */
    ngx_asana_task_t             *task;       /* under way, or NULL */
    ngx_asana_reason_e            reason;     /* of a refused change */
    ngx_asana_task_t             *changed;    /* in the step after it */
    ngx_queue_t                  *asked;      /* what the store owes, or NULL */
    ngx_asana_lookup_t            lookup;
    ngx_asana_secrets_t           secrets;    /* of the last look-up */
    ngx_str_t                     key;
    uint32_t                      hash;
    ngx_str_t                     secret;     /* of a handshake */
    ngx_str_t                     webhook;    /* its gid, or empty */
    const char                   *cause;      /* as an event tells it */
    unsigned                      counted:1;
    unsigned                      reading:1;  /* its body, not yet later */
    unsigned                      dry_run:1;  /* it would be rejected */
    unsigned                      identified:1;
    unsigned                      left:1;     /* nobody reads its answer */
    u_char                        id[2 * NGX_ASANA_ID_LEN];
    u_char                        signature[NGX_ASANA_MAC_LEN];
    ngx_asana_secret_t            verified;   /* what it was, but its text */
    uint64_t                      buf[NGX_HTTP_ASANA_SECRETS / 8];
};


/*
 * Creates the state of a decision, which lives as long as the request, or
 * NULL.  "end" is called with what the last step returned, if that was not in
 * the handler that made the first one.
 */
ngx_http_asana_ctx_t *ngx_http_asana_request_create(ngx_http_request_t *r,
    ngx_http_asana_zone_conf_t *azcf, ngx_asana_count_e count,
    ngx_http_asana_end_pt end);

/* The state of the request, also after an internal redirect, or NULL. */
ngx_http_asana_ctx_t *ngx_http_asana_request_ctx(ngx_http_request_t *r);

/* An "end" for what was decided in a phase: goes on with the phases. */
void ngx_http_asana_request_phases(ngx_http_asana_ctx_t *ctx, ngx_int_t rc);

/* Evaluates the key; NGX_DECLINED, with a reason: it is no good. */
ngx_int_t ngx_http_asana_request_key(ngx_http_asana_ctx_t *ctx,
    const char **reason);

/* Looks ctx->key up; rc of the step: NGX_DECLINED: none, ERROR: not known. */
ngx_int_t ngx_http_asana_request_find(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_step_pt step);

/* Lists keys: rc of the step is what listing->shown() returned last. */
ngx_int_t ngx_http_asana_request_list(ngx_http_asana_ctx_t *ctx,
    ngx_asana_listing_t *listing, ngx_http_asana_step_pt step);

/*
 * Hands the change over and goes on with the step, whose rc is an
 * ngx_asana_outcome_e; a client that leaves meanwhile is noticed.
 */
ngx_int_t ngx_http_asana_request_change(ngx_http_asana_ctx_t *ctx,
    ngx_asana_task_t *task, ngx_http_asana_step_pt step);

/*
 * The one end of each decision: sets the word and rc, logs the reason (NULL:
 * it is in ctx->cause, if there is one), counts, adds an event, and wipes the
 * secrets.  Returns rc, NGX_DECLINED in a dry run.
 */
ngx_int_t ngx_http_asana_request_finish(ngx_http_asana_ctx_t *ctx,
    ngx_http_asana_word_e word, ngx_int_t rc, const char *reason);

/* For the log and the application; empty if there is no word yet. */
void ngx_http_asana_request_word(ngx_http_asana_ctx_t *ctx, ngx_str_t *word);
/* Sets $asana_hook_secret_id to that of the secret. */
void ngx_http_asana_request_identify(ngx_http_asana_ctx_t *ctx, u_char *id);


#endif /* _NGX_HTTP_ASANA_REQUEST_H_INCLUDED_ */
