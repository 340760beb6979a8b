
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_POLICY_H_INCLUDED_
#define _NGX_ASANA_POLICY_H_INCLUDED_


#include "ngx_asana_secrets.h"


/* what "asana_hook_enroll" says of handshakes with a new secret */

typedef enum {
    NGX_ASANA_ENROLL_OFF = 0,
    NGX_ASANA_ENROLL_FIRST,
    NGX_ASANA_ENROLL_OPEN,
    NGX_ASANA_ENROLL_CONFIRM,
    NGX_ASANA_ENROLL_GATEWAY
} ngx_asana_enroll_e;


typedef enum {
    NGX_ASANA_HANDSHAKE = 0,
    NGX_ASANA_PUT,           /* by the operator: comes confirmed */
    NGX_ASANA_CONFIRM,       /* by the gateway: a pending one becomes active */
    NGX_ASANA_REVOKE,        /* one secret, or all */
    NGX_ASANA_NOTE,          /* times of deliveries */
    NGX_ASANA_FORGET,        /* by the gateway: a webhook was deleted */
    NGX_ASANA_RESEAL,        /* secrets of the zone by the first key */
    NGX_ASANA_CALL,          /* a create call begins, named by the id */
    NGX_ASANA_CALL_END,      /* both only where hosts share a store */
    NGX_ASANA_WALK           /* a step through all keys, which changes none */
} ngx_asana_change_e;


struct ngx_asana_change_s {
    ngx_asana_change_e    type;
    ngx_asana_enroll_e    enroll;      /* HANDSHAKE */
    ngx_uint_t            creating;    /* HANDSHAKE: a create call is open */
    ngx_uint_t            all;         /* REVOKE: without an id */
    time_t                verified;    /* NOTE, as a secret has them */
    time_t                answered;
    time_t                failing;
    uint16_t              code;
    u_char                id[NGX_ASANA_ID_LEN];         /* unless "all" */
    u_char                gid[NGX_ASANA_MAX_GID];       /* CONFIRM, FORGET */
    u_char                secret[NGX_ASANA_MAX_SECRET];
    u_char                gid_len;
    u_char                secret_len;  /* HANDSHAKE, PUT, CONFIRM */
};


typedef struct {
    time_t                inactive;    /* seconds */
    time_t                pending;     /* seconds */
    ngx_uint_t            max_secrets; /* 1 to 1000 */
} ngx_asana_limits_t;


typedef enum {
    NGX_ASANA_FAILED = 0,    /* no memory, or the store failed */
    NGX_ASANA_FULL,          /* the store takes no more */
    NGX_ASANA_REFUSED,       /* with a reason */
    NGX_ASANA_ABSENT,        /* there is no such secret */
    NGX_ASANA_HELD,          /* it is so already: nothing to write */
    NGX_ASANA_CHANGED,       /* to be written */
    NGX_ASANA_ADDED          /* the same, and the secret is new */
} ngx_asana_outcome_e;


typedef enum {
    NGX_ASANA_REASON_NONE = 0,
    NGX_ASANA_REASON_OFF,           /* the policy is "off" */
    NGX_ASANA_REASON_ACTIVE,        /* "first": there is an active secret */
    NGX_ASANA_REASON_MAX_SECRETS,   /* as many active ones as allowed */
    NGX_ASANA_REASON_NO_CREATE_CALL, /* "gateway": none is in flight */
    NGX_ASANA_REASON_SAME_ID        /* another secret of the key has its id */
} ngx_asana_reason_e;


/*
 * Decides on a change of the secrets of one key, and makes it in "secrets".
 * Pure: it depends on its arguments alone, takes no lock and does no I/O, and
 * may be called in any thread.  The secrets are as the store has them; those
 * past "pending" are removed, times after now count as now.  Only after
 * CHANGED and ADDED the secrets are to be written; if they are empty then, the
 * key goes.  A secret that is new, or whose state or times changed, has the
 * serial 0 then: the store gives it a new place in its order.  The reason is
 * set for REFUSED, else NONE.
 */
ngx_asana_outcome_e ngx_asana_policy_decide(ngx_asana_secrets_t *secrets,
    ngx_asana_change_t *change, time_t now, ngx_asana_limits_t *limits,
    ngx_asana_reason_e *reason);

/* Whether a confirmed secret of the key is active. */
ngx_uint_t ngx_asana_policy_active(ngx_asana_secrets_t *secrets, time_t now,
    time_t inactive);

/*
 * The confirmed secret with this text, or NULL: a handshake that brings it
 * again is accepted under each policy, and changes nothing.
 */
ngx_asana_secret_t *ngx_asana_policy_held(ngx_asana_secrets_t *secrets,
    ngx_str_t *text);

/* Reads a value of "asana_hook_enroll"; NGX_DECLINED if there is none such. */
ngx_int_t ngx_asana_policy_enroll(ngx_str_t *value,
    ngx_asana_enroll_e *enroll);

/* What a log line says after "refused": the cause. */
const char *ngx_asana_policy_reason(ngx_asana_reason_e reason);


#endif /* _NGX_ASANA_POLICY_H_INCLUDED_ */
