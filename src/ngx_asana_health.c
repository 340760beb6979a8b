
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_health.h"


ngx_str_t  ngx_asana_health_names[NGX_ASANA_HEALTHS] = {
    ngx_string("pending"),
    ngx_string("ok"),
    ngx_string("new"),
    ngx_string("late"),
    ngx_string("failing"),
    ngx_string("dead")
};


ngx_asana_health_e
ngx_asana_health(ngx_asana_secret_t *s, time_t now)
{
    time_t  age;

    if (s->pending) {
        return NGX_ASANA_HEALTH_PENDING;
    }

    age = now - ngx_asana_secret_seen(s);

    if (age >= NGX_ASANA_HEALTH_DEAD_AFTER
        || (s->failing && now - s->failing >= NGX_ASANA_HEALTH_FAIL_AFTER))
    {
        return NGX_ASANA_HEALTH_DEAD;
    }

    if (s->failing) {
        return NGX_ASANA_HEALTH_FAILING;
    }

    if (age >= NGX_ASANA_HEALTH_LATE_AFTER) {
        return NGX_ASANA_HEALTH_LATE;
    }

    return s->verified ? NGX_ASANA_HEALTH_OK : NGX_ASANA_HEALTH_NEW;
}


ngx_asana_health_e
ngx_asana_health_worst(ngx_asana_secrets_t *secrets, time_t now)
{
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;
    ngx_asana_health_e   health, worst;

    worst = NGX_ASANA_HEALTH_PENDING;
    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {
        health = ngx_asana_health(s, now);
        worst = ngx_max(worst, health);

        s = ngx_asana_secret_next(s);
    }

    return worst;
}


time_t
ngx_asana_health_since(ngx_asana_secrets_t *secrets, time_t now)
{
    time_t               since;
    ngx_uint_t           i;
    ngx_asana_secret_t  *s;

    since = now;
    s = ngx_asana_secrets_first(secrets);

    for (i = 0; i < secrets->n; i++) {

        if (ngx_asana_health(s, now) == NGX_ASANA_HEALTH_FAILING) {
            since = ngx_min(since, s->failing);
        }

        s = ngx_asana_secret_next(s);
    }

    return since;
}


void
ngx_asana_health_note(ngx_asana_secret_t *s, uint16_t code, ngx_uint_t success,
    time_t now)
{
    s->code = code;

    if (success) {
        s->answered = ngx_max(s->answered, now);
        s->failing = 0;

    } else if (s->failing == 0 && now > s->answered) {
        s->failing = now;
    }
}


ngx_uint_t
ngx_asana_health_merge(ngx_asana_secret_t *s, ngx_asana_secret_t *other)
{
    time_t              failing, verified, answered;
    uint16_t            code;
    ngx_asana_secret_t  *last;

    /* in one second, the same for whoever adds to whom */

    last = (other->verified > s->verified
            || (other->verified == s->verified && other->code > s->code))
           ? other : s;

    code = last->code;
    verified = last->verified;
    answered = ngx_max(s->answered, other->answered);

    failing = s->failing;

    if (failing <= answered
        || (other->failing > answered && other->failing < failing))
    {
        failing = other->failing;
    }

    if (failing <= answered) {
        failing = 0;
    }

    if (verified == s->verified
        && answered == s->answered
        && failing == s->failing
        && code == s->code)
    {
        return 0;
    }

    s->verified = verified;
    s->answered = answered;
    s->failing = failing;
    s->code = code;

    return 1;
}
