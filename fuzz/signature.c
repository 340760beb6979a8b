
/*
 * Copyright (C) asana-hook contributors
 */


/* X-Hook-Signature, X-Hook-Secret and asana_hook_enroll, as they come in. */


#include "fuzz.h"


static void
fuzz_signature(ngx_str_t *value)
{
    char        hex[3];
    u_char      mac[NGX_HTTP_ASANA_HOOK_MAC_LEN];
    size_t      i;
    ngx_int_t   rc;
    ngx_uint_t  good;

    good = (value->len == 64);

    for (i = 0; i < value->len; i++) {
        good = good && isxdigit(value->data[i]);
    }

    rc = ngx_http_asana_hook_signature_parse(value, mac);

    check(rc == (good ? NGX_OK : NGX_DECLINED));

    for (i = 0; good && i < 32; i++) {
        memcpy(hex, value->data + 2 * i, 2);
        hex[2] = '\0';
        check(mac[i] == strtoul(hex, NULL, 16));
    }
}


static void
fuzz_secret(ngx_str_t *value)
{
    size_t      i;
    ngx_uint_t  good;

    good = (value->len >= 16 && value->len <= 255);

    for (i = 0; i < value->len; i++) {
        good = good && isgraph(value->data[i]);
    }

    check(ngx_http_asana_hook_secret_valid(value) == good);
}


static void
fuzz_policy(ngx_str_t *value)
{
    size_t                        i, known;
    ngx_int_t                     rc;
    ngx_http_asana_hook_policy_e  policy;

    static const struct {
        const char                    *name;
        ngx_http_asana_hook_policy_e   policy;
    } policies[] = {
        { "off", NGX_HTTP_ASANA_HOOK_OFF },
        { "first", NGX_HTTP_ASANA_HOOK_FIRST },
        { "open", NGX_HTTP_ASANA_HOOK_OPEN },
        { "confirm", NGX_HTTP_ASANA_HOOK_CONFIRM },
        { "register", NGX_HTTP_ASANA_HOOK_REGISTER }
    };

    rc = ngx_http_asana_hook_policy(value, &policy);
    known = 0;

    for (i = 0; i < sizeof(policies) / sizeof(policies[0]); i++) {
        if (strlen(policies[i].name) == value->len
            && memcmp(policies[i].name, value->data, value->len) == 0)
        {
            known = 1;
            check(rc == NGX_OK && policy == policies[i].policy);
        }
    }

    check(known || rc == NGX_DECLINED);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_str_t    value;
    ngx_pool_t  *pool;

    pool = fuzz_pool();

    value.data = fuzz_copy(pool, data, size);
    value.len = size;

    fuzz_signature(&value);
    fuzz_secret(&value);
    fuzz_policy(&value);

    ngx_destroy_pool(pool);

    return 0;
}
