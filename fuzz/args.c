
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Arguments of the control API.  The first byte says which are allowed; what
 * is taken must be what a plain reading of the same text finds.
 */


#include "ngx_http_asana_args.h"
#include "fuzz.h"


static const char  *fuzz_names[NGX_HTTP_ASANA_ARGS] = {
    "key", "id", "after", "limit", "q", "health"
};

static const char  *fuzz_healths[NGX_ASANA_HEALTHS] = {
    "pending", "ok", "new", "late", "failing", "dead"
};


/* 1 if the argument is good and new, with what it stands for in "value" */

static ngx_uint_t
fuzz_arg(char *p, size_t len, ngx_uint_t allowed, ngx_str_t *value)
{
    int      n;
    char    *eq, hex[3];
    size_t   i;

    eq = memchr(p, '=', len);

    if (eq == NULL) {
        return 0;
    }

    for (i = 0; i < NGX_HTTP_ASANA_ARGS; i++) {
        if ((size_t) (eq - p) == strlen(fuzz_names[i])
            && memcmp(p, fuzz_names[i], eq - p) == 0)
        {
            break;
        }
    }

    if (i == NGX_HTTP_ASANA_ARGS || !(allowed >> i & 1) || value[i].data) {
        return 0;
    }

    len -= eq + 1 - p;
    p = eq + 1;

    value[i].data = malloc(len + 1);
    value[i].len = 0;
    check(value[i].data);

    for ( /* void */ ; len; p++, len--) {

        n = (u_char) *p;

        if (*p == '%') {

            if (len < 3 || !isxdigit((u_char) p[1])
                || !isxdigit((u_char) p[2]))
            {
                return 0;
            }

            memcpy(hex, p + 1, 2);
            hex[2] = '\0';
            n = (int) strtol(hex, NULL, 16);
            p += 2;
            len -= 2;
        }

        value[i].data[value[i].len++] = (u_char) n;
    }

    value[i].data[value[i].len] = '\0';

    return 1;
}


static ngx_uint_t
fuzz_values(ngx_str_t *value, long *limit, ngx_uint_t *health)
{
    size_t  i, n;

    for (i = 0; i <= 4; i += 2) {
        if (value[i].data && (value[i].len < 1 || value[i].len > 480)) {
            return 0;
        }

        for (n = 0; n < value[i].len; n++) {
            if (iscntrl(value[i].data[n])) {
                return 0;
            }
        }
    }

    if (value[1].data
        && !(value[1].len == 16
             && strspn((char *) value[1].data, "0123456789abcdefABCDEF")
                == 16))
    {
        return 0;
    }

    if (value[5].data) {

        for (i = 0; i < NGX_ASANA_HEALTHS; i++) {
            if (value[5].len == strlen(fuzz_healths[i])
                && memcmp(value[5].data, fuzz_healths[i], value[5].len) == 0)
            {
                break;
            }
        }

        if (i == NGX_ASANA_HEALTHS) {
            return 0;
        }

        *health = 1 << i;
    }

    *limit = 100;

    if (value[3].data == NULL) {
        return 1;
    }

    if (value[3].len == 0
        || strspn((char *) value[3].data, "0123456789") != value[3].len)
    {
        return 0;
    }

    *limit = strtol((char *) value[3].data, NULL, 10);

    return *limit >= 1 && *limit <= 1000;
}


/* the same in another way; the values are to be freed */

static ngx_uint_t
fuzz_args(ngx_str_t *args, ngx_uint_t allowed, ngx_str_t *value, long *limit,
    ngx_uint_t *health)
{
    char   *p, *amp;
    size_t  left, len;

    *limit = 100;
    *health = (1 << NGX_ASANA_HEALTHS) - 1;

    p = (char *) args->data;
    left = args->len;

    while (args->len) {
        amp = memchr(p, '&', left);
        len = amp ? (size_t) (amp - p) : left;

        if (!fuzz_arg(p, len, allowed, value)) {
            return 0;
        }

        if (amp == NULL) {
            break;
        }

        p = amp + 1;
        left -= len + 1;
    }

    return fuzz_values(value, limit, health);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    long                         limit;
    size_t                       i;
    ngx_str_t                    value[NGX_HTTP_ASANA_ARGS];
    ngx_uint_t                   allowed, good, health;
    const char                  *error;
    ngx_http_request_t           r;
    ngx_http_asana_args_t   args;

    if (size == 0) {
        return 0;
    }

    ngx_memzero(&r, sizeof(ngx_http_request_t));
    ngx_memzero(value, sizeof(value));

    allowed = data[0];

    r.pool = fuzz_pool();
    r.args.data = fuzz_copy(r.pool, data + 1, size - 1);
    r.args.len = size - 1;

    error = ngx_http_asana_args_read(&r, allowed, &args);
    good = fuzz_args(&r.args, allowed, value, &limit, &health);

    check((error == NULL) == good);

    for (i = 0; i < NGX_HTTP_ASANA_ARGS; i++) {

        if (good) {
            check((args.given >> i & 1) == (value[i].data != NULL));
            check(args.value[i].len == value[i].len);
            check(value[i].len == 0
                  || memcmp(args.value[i].data, value[i].data, value[i].len)
                     == 0);
        }

        free(value[i].data);
    }

    check(!good || (args.limit == limit && args.health == health));

    ngx_destroy_pool(r.pool);

    return 0;
}
