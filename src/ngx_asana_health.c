
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_health.h"


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
