
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * libpq does not try the next one of several servers while the first is
 * silent; therefore each attempt begins with another one.
 */


#include "ngx_asana_uri.h"


#define NGX_ASANA_URI_PARAMS  64


static void ngx_asana_uri_rotate(char *list, ngx_uint_t n);


const char *
ngx_asana_uri_check(ngx_asana_backend_conf_t *conf)
{
    char              *error;
    const char        *reason;
    PQconninfoOption  *options, *o;

    options = PQconninfoParse((char *) conf->state.data, &error);

    if (options == NULL) {
        PQfreemem(error);
        return "it is no URI that libpq understands";
    }

    reason = NULL;

    for (o = options; o->keyword; o++) {
        if (o->val && *o->dispchar == '*') {
            reason = "it must not have a password; put that into a file that "
                     "\"passfile=\" names";
        }
    }

    PQconninfoFree(options);

    return reason;
}


PGconn *
ngx_asana_uri_start(ngx_asana_backend_conf_t *conf, ngx_uint_t attempts)
{
    char              *error, user[NGX_INT64_LEN + 1];
    PGconn            *conn;
    ngx_uint_t         n;
    PQconninfoOption  *options, *o;
    const char        *keys[NGX_ASANA_URI_PARAMS + 1];
    const char        *values[NGX_ASANA_URI_PARAMS + 1];

    static const char *defaults[][2] = {
        { "fallback_application_name", "asana_hook" },
        { "target_session_attrs", "read-write" },
        { "keepalives_idle", "10" },
        { "keepalives_interval", "5" },
        { "keepalives_count", "3" }
    };

    options = PQconninfoParse((char *) conf->state.data, &error);

    if (options == NULL) {
        PQfreemem(error);
        return NULL;
    }

    /* what stands in the URI comes later, and counts */

    for (n = 0; n < sizeof(defaults) / sizeof(defaults[0]); n++) {
        keys[n] = defaults[n][0];
        values[n] = defaults[n][1];
    }

    (void) ngx_sprintf((u_char *) user, "%M%Z", conf->timeout);

    keys[n] = "tcp_user_timeout";
    values[n++] = user;

    for (o = options; o->keyword && n < NGX_ASANA_URI_PARAMS - 1; o++) {

        if (o->val == NULL) {
            continue;
        }

        if (ngx_strcmp(o->keyword, "host") == 0
            || ngx_strcmp(o->keyword, "hostaddr") == 0
            || ngx_strcmp(o->keyword, "port") == 0)
        {
            ngx_asana_uri_rotate(o->val, attempts);
        }

        keys[n] = o->keyword;
        values[n++] = o->val;
    }

    keys[n] = "gssencmode";
    values[n++] = "disable";

    keys[n] = NULL;
    values[n] = NULL;

    conn = PQconnectStartParams(keys, values, 0);

    PQconninfoFree(options);

    return conn;
}


/* "a,b,c" becomes "b,c,a", n times */

static void
ngx_asana_uri_rotate(char *list, ngx_uint_t n)
{
    char    *comma, first[NGX_MAXHOSTNAMELEN];
    size_t   len, rest;

    for (n %= NGX_ASANA_URI_PARAMS; n; n--) {

        comma = strchr(list, ',');

        if (comma == NULL || comma - list >= (ssize_t) sizeof(first)) {
            return;
        }

        len = comma - list;
        rest = ngx_strlen(comma + 1);

        ngx_memcpy(first, list, len);
        ngx_memmove(list, comma + 1, rest);
        list[rest] = ',';
        ngx_memcpy(list + rest + 1, first, len);
    }
}
