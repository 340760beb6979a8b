
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_policy.h"
#include "ngx_asana_health.h"


/* a decision under way: its arguments, and what is seen of the secrets */

typedef struct {
    ngx_asana_secrets_t  *secrets;
    ngx_asana_change_t   *change;
    ngx_asana_limits_t   *limits;
    time_t                now;
    ngx_asana_reason_e    reason;

    ngx_uint_t            confirmed;
    ngx_uint_t            active;
    ngx_uint_t            pending;     /* without "held" */
    ngx_asana_secret_t   *held;        /* the very secret of the change */
    ngx_asana_secret_t   *inactive;    /* the least recently seen one */
    ngx_asana_secret_t   *oldest;      /* of the pending ones */
} ngx_asana_policy_t;


static ngx_asana_outcome_e ngx_asana_policy_apply(ngx_asana_policy_t *d);
static ngx_int_t ngx_asana_policy_look(ngx_asana_policy_t *d);
static ngx_asana_outcome_e ngx_asana_policy_handshake(ngx_asana_policy_t *d);
static ngx_asana_outcome_e ngx_asana_policy_put(ngx_asana_policy_t *d);
static ngx_asana_outcome_e ngx_asana_policy_confirm(ngx_asana_policy_t *d);
static ngx_asana_outcome_e ngx_asana_policy_revoke(ngx_asana_policy_t *d);
static ngx_asana_outcome_e ngx_asana_policy_note(ngx_asana_policy_t *d);
static ngx_asana_outcome_e ngx_asana_policy_forget(ngx_asana_policy_t *d);
static ngx_asana_outcome_e ngx_asana_policy_activate(ngx_asana_policy_t *d);
static ngx_asana_outcome_e ngx_asana_policy_accept(ngx_asana_policy_t *d,
    u_char pending);
static ngx_asana_outcome_e ngx_asana_policy_refuse(ngx_asana_policy_t *d,
    ngx_asana_reason_e reason);
static void ngx_asana_policy_drop_confirmed(ngx_asana_secrets_t *secrets);


static ngx_conf_enum_t  ngx_asana_policy_words[] = {
    { ngx_string("first"), NGX_ASANA_ENROLL_FIRST },
    { ngx_string("open"), NGX_ASANA_ENROLL_OPEN },
    { ngx_string("confirm"), NGX_ASANA_ENROLL_CONFIRM },
    { ngx_string("gateway"), NGX_ASANA_ENROLL_GATEWAY },
    { ngx_string("off"), NGX_ASANA_ENROLL_OFF },
    { ngx_null_string, 0 }
};


/* by ngx_asana_reason_e */

static const char  *ngx_asana_policy_reasons[] = {
    "",

    "\"asana_hook_enroll\" is \"off\" here; set it to \"first\" while "
    "webhooks are created",

    "its key already has an active secret; give each webhook a URL of its "
    "own, wait until the old secret is inactive, revoke it by "
    "\"asana_hook_api\", or set \"asana_hook_enroll\" to \"open\" or "
    "\"confirm\"",

    "its key already has as many active secrets as \"max_secrets\" allows; "
    "give each webhook a URL of its own, revoke old ones by "
    "\"asana_hook_api\", or raise it",

    "no create call is in flight through a location with "
    "\"asana_hook_gateway\" of the zone; create the webhook through it",

    "its key has another secret with the same id; revoke that one by "
    "\"asana_hook_api\""
};


ngx_asana_outcome_e
ngx_asana_policy_decide(ngx_asana_secrets_t *secrets,
    ngx_asana_change_t *change, time_t now, ngx_asana_limits_t *limits,
    ngx_asana_reason_e *reason)
{
    ngx_uint_t           ahead;
    ngx_asana_policy_t   d;
    ngx_asana_outcome_e  outcome;

    ngx_memzero(&d, sizeof(ngx_asana_policy_t));

    d.secrets = secrets;
    d.change = change;
    d.limits = limits;
    d.now = now;

    ahead = ngx_asana_secrets_settle(secrets, now, limits->pending);

    outcome = ngx_asana_policy_apply(&d);

    if (ahead && change->type == NGX_ASANA_NOTE) {

        /* what a clock that went wrong has left is corrected */

        outcome = NGX_ASANA_CHANGED;
    }

    *reason = d.reason;

    return outcome;
}


ngx_asana_secret_t *
ngx_asana_policy_held(ngx_asana_secrets_t *secrets, ngx_str_t *text)
{
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_by_text(secrets, text->data, text->len);

    return (s && !s->pending) ? s : NULL;
}


static ngx_asana_outcome_e
ngx_asana_policy_apply(ngx_asana_policy_t *d)
{
    switch (d->change->type) {

    case NGX_ASANA_REVOKE:
        return ngx_asana_policy_revoke(d);

    case NGX_ASANA_NOTE:
        return ngx_asana_policy_note(d);

    case NGX_ASANA_FORGET:
        return ngx_asana_policy_forget(d);

    default:
        break;
    }

    if (ngx_asana_policy_look(d) != NGX_OK) {
        return NGX_ASANA_FAILED;
    }

    if (d->change->type == NGX_ASANA_CONFIRM) {
        return ngx_asana_policy_confirm(d);
    }

    /* with two of them neither could be revoked alone */

    if (d->held == NULL
        && ngx_asana_secrets_by_id(d->secrets, d->change->id))
    {
        return ngx_asana_policy_refuse(d, NGX_ASANA_REASON_SAME_ID);
    }

    return (d->change->type == NGX_ASANA_PUT) ? ngx_asana_policy_put(d)
                                              : ngx_asana_policy_handshake(d);
}


/* leaves room for a new secret, so that no other is dropped in vain */

static ngx_int_t
ngx_asana_policy_look(ngx_asana_policy_t *d)
{
    size_t               size;
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    size = d->secrets->size + ngx_asana_secret_size(d->change->secret_len);

    if (ngx_asana_secrets_reserve(d->secrets, size) != NGX_OK) {
        return NGX_ERROR;
    }

    d->held = ngx_asana_secrets_by_text(d->secrets, d->change->secret,
                                        d->change->secret_len);

    s = ngx_asana_secrets_first(d->secrets);

    for (i = 0; i < d->secrets->n; i++) {

        if (!s->pending) {
            d->confirmed++;

            if (d->now - ngx_asana_secret_seen(s) < d->limits->inactive) {
                d->active++;

            } else if (d->inactive == NULL
                       || ngx_asana_secret_seen(s)
                          < ngx_asana_secret_seen(d->inactive))
            {
                d->inactive = s;
            }

        } else if (s != d->held) {
            d->pending++;

            if (d->oldest == NULL || s->created < d->oldest->created) {
                d->oldest = s;
            }
        }

        s = ngx_asana_secret_next(s);
    }

    return NGX_OK;
}


static ngx_asana_outcome_e
ngx_asana_policy_handshake(ngx_asana_policy_t *d)
{
    ngx_uint_t          first, pending;
    ngx_asana_enroll_e  enroll;

    enroll = d->change->enroll;

    first = (enroll == NGX_ASANA_ENROLL_FIRST);
    pending = !first && enroll != NGX_ASANA_ENROLL_OPEN;

    /* one that is pending may become more here */

    if (d->held && (!d->held->pending || pending)) {
        return NGX_ASANA_HELD;
    }

    if (enroll == NGX_ASANA_ENROLL_OFF) {
        return ngx_asana_policy_refuse(d, NGX_ASANA_REASON_OFF);
    }

    if (enroll == NGX_ASANA_ENROLL_GATEWAY && !d->change->creating) {
        return ngx_asana_policy_refuse(d, NGX_ASANA_REASON_NO_CREATE_CALL);
    }

    if (d->active >= (first ? 1 : d->limits->max_secrets)) {

        /* what is held is acknowledged, and stays as it is */

        return d->held ? NGX_ASANA_HELD
                       : ngx_asana_policy_refuse(d, first
                                              ? NGX_ASANA_REASON_ACTIVE
                                              : NGX_ASANA_REASON_MAX_SECRETS);
    }

    if (first) {
        ngx_asana_policy_drop_confirmed(d->secrets);

    } else if (!pending) {
        return ngx_asana_policy_activate(d);

    } else if (d->pending
               && d->pending + d->confirmed >= d->limits->max_secrets)
    {
        /* what anybody may send replaces nothing but its like */

        ngx_asana_secrets_remove(d->secrets, d->oldest);
    }

    return ngx_asana_policy_accept(d, pending);
}


static ngx_asana_outcome_e
ngx_asana_policy_put(ngx_asana_policy_t *d)
{
    if (d->held == NULL || d->held->pending) {
        return ngx_asana_policy_activate(d);
    }

    if (d->now - ngx_asana_secret_seen(d->held) < d->limits->inactive) {
        return NGX_ASANA_HELD;
    }

    return ngx_asana_policy_accept(d, 0);
}


static ngx_asana_outcome_e
ngx_asana_policy_confirm(ngx_asana_policy_t *d)
{
    ngx_asana_secret_t   *s;
    ngx_asana_change_t   *change;
    ngx_asana_outcome_e   outcome;

    change = d->change;

    /* one that was accepted at once is of this create call if it is young */

    if (d->held == NULL
        || (!d->held->pending
            && d->now - d->held->created >= d->limits->pending))
    {
        return NGX_ASANA_ABSENT;
    }

    outcome = d->held->pending ? ngx_asana_policy_activate(d)
                               : NGX_ASANA_HELD;

    if (outcome == NGX_ASANA_REFUSED) {
        return outcome;
    }

    s = d->held;

    if (change->gid_len == 0
        || ngx_asana_same(s->gid, s->gid_len, change->gid, change->gid_len))
    {
        return outcome;
    }

    s->gid_len = change->gid_len;
    ngx_memcpy(s->gid, change->gid, change->gid_len);

    return NGX_ASANA_CHANGED;
}


static ngx_asana_outcome_e
ngx_asana_policy_revoke(ngx_asana_policy_t *d)
{
    ngx_asana_secret_t  *s;

    if (d->change->all) {

        if (d->secrets->n == 0) {
            return NGX_ASANA_ABSENT;
        }

        ngx_asana_secrets_wipe(d->secrets);

        return NGX_ASANA_CHANGED;
    }

    s = ngx_asana_secrets_by_id(d->secrets, d->change->id);
    if (s == NULL) {
        return NGX_ASANA_ABSENT;
    }

    ngx_asana_secrets_remove(d->secrets, s);

    return NGX_ASANA_CHANGED;
}


static ngx_asana_outcome_e
ngx_asana_policy_note(ngx_asana_policy_t *d)
{
    ngx_asana_secret_t  *s, noted;

    s = ngx_asana_secrets_by_id(d->secrets, d->change->id);

    if (s == NULL || s->pending) {
        return NGX_ASANA_ABSENT;
    }

    noted.verified = ngx_min(d->change->verified, d->now);
    noted.answered = ngx_min(d->change->answered, d->now);
    noted.failing = ngx_min(d->change->failing, d->now);
    noted.code = d->change->code;

    if (!ngx_asana_health_merge(s, &noted)) {
        return NGX_ASANA_HELD;
    }

    s->serial = 0;

    return NGX_ASANA_CHANGED;
}


static ngx_asana_outcome_e
ngx_asana_policy_forget(ngx_asana_policy_t *d)
{
    ngx_uint_t           i, n;
    ngx_asana_secret_t  *s;
    ngx_asana_change_t  *change;

    change = d->change;

    n = d->secrets->n;
    s = ngx_asana_secrets_first(d->secrets);

    for (i = 0; i < n; i++) {

        if (change->gid_len
            && ngx_asana_same(s->gid, s->gid_len, change->gid, change->gid_len))
        {
            ngx_asana_secrets_remove(d->secrets, s);

        } else {
            s = ngx_asana_secret_next(s);
        }
    }

    return (d->secrets->n < n) ? NGX_ASANA_CHANGED : NGX_ASANA_ABSENT;
}


/* accepts the secret as confirmed, in the place of an inactive one */

static ngx_asana_outcome_e
ngx_asana_policy_activate(ngx_asana_policy_t *d)
{
    if (d->confirmed >= d->limits->max_secrets) {

        if (d->inactive == NULL) {
            return ngx_asana_policy_refuse(d, NGX_ASANA_REASON_MAX_SECRETS);
        }

        ngx_asana_secrets_remove(d->secrets, d->inactive);
    }

    return ngx_asana_policy_accept(d, 0);
}


/* looks anew, for others may have been removed */

static ngx_asana_outcome_e
ngx_asana_policy_accept(ngx_asana_policy_t *d, u_char pending)
{
    ngx_asana_secret_t   *s;
    ngx_asana_change_t   *change;
    ngx_asana_outcome_e   outcome;

    change = d->change;
    outcome = NGX_ASANA_CHANGED;

    s = ngx_asana_secrets_by_text(d->secrets, change->secret,
                                  change->secret_len);

    if (s == NULL) {
        outcome = NGX_ASANA_ADDED;

        s = ngx_asana_secrets_push(d->secrets, change->secret_len);
        if (s == NULL) {
            return NGX_ASANA_FAILED;
        }

        ngx_memcpy(s->id, change->id, NGX_ASANA_ID_LEN);
        ngx_memcpy(s->data, change->secret, change->secret_len);
    }

    s->created = d->now;
    s->pending = pending;
    s->serial = 0;

    d->held = s;

    return outcome;
}


static ngx_asana_outcome_e
ngx_asana_policy_refuse(ngx_asana_policy_t *d, ngx_asana_reason_e reason)
{
    d->reason = reason;

    return NGX_ASANA_REFUSED;
}


static void
ngx_asana_policy_drop_confirmed(ngx_asana_secrets_t *secrets)
{
    ngx_uint_t           i, n;
    ngx_asana_secret_t  *s;

    n = secrets->n;
    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < n; i++) {

        if (s->pending) {
            s = ngx_asana_secret_next(s);

        } else {
            ngx_asana_secrets_remove(secrets, s);
        }
    }
}


ngx_uint_t
ngx_asana_policy_active(ngx_asana_secrets_t *secrets, time_t now,
    time_t inactive)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {

        if (!s->pending && now - ngx_asana_secret_seen(s) < inactive) {
            return 1;
        }

        s = ngx_asana_secret_next(s);
    }

    return 0;
}


ngx_int_t
ngx_asana_policy_enroll(ngx_str_t *value, ngx_asana_enroll_e *enroll)
{
    ngx_conf_enum_t  *e;

    for (e = ngx_asana_policy_words; e->name.len; e++) {
        if (e->name.len == value->len
            && ngx_strncmp(e->name.data, value->data, value->len) == 0)
        {
            *enroll = e->value;
            return NGX_OK;
        }
    }

    return NGX_DECLINED;
}


const char *
ngx_asana_policy_reason(ngx_asana_reason_e reason)
{
    return ngx_asana_policy_reasons[reason];
}
