
/*
 * Copyright (C) asana-hook contributors
 */


/* X-Hook-Signature, X-Hook-Secret and asana_hook_enroll, as they come in. */


#include "ngx_asana_hmac.h"
#include "ngx_asana_policy.h"
#include "fuzz.h"


static void
fuzz_signature(ngx_str_t *value)
{
    char        hex[3];
    u_char      mac[NGX_ASANA_MAC_LEN];
    size_t      i;
    ngx_int_t   rc;
    ngx_uint_t  good;

    good = (value->len == 64);

    for (i = 0; i < value->len; i++) {
        good = good && isxdigit(value->data[i]);
    }

    rc = ngx_asana_hmac_parse(value, mac);

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

    check(ngx_asana_secrets_check(value->data, value->len)
          == (good ? NGX_OK : NGX_DECLINED));
}


static void
fuzz_enroll(ngx_str_t *value)
{
    size_t              i, known;
    ngx_int_t           rc;
    ngx_asana_enroll_e  enroll;

    static const struct {
        const char          *name;
        ngx_asana_enroll_e   enroll;
    } words[] = {
        { "off", NGX_ASANA_ENROLL_OFF },
        { "first", NGX_ASANA_ENROLL_FIRST },
        { "open", NGX_ASANA_ENROLL_OPEN },
        { "confirm", NGX_ASANA_ENROLL_CONFIRM },
        { "gateway", NGX_ASANA_ENROLL_GATEWAY }
    };

    rc = ngx_asana_policy_enroll(value, &enroll);
    known = 0;

    for (i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
        if (strlen(words[i].name) == value->len
            && memcmp(words[i].name, value->data, value->len) == 0)
        {
            known = 1;
            check(rc == NGX_OK && enroll == words[i].enroll);
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
    fuzz_enroll(&value);

    ngx_destroy_pool(pool);

    return 0;
}
