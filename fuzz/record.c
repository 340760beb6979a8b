
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Whatever lies in the store as a record is either refused or means what it
 * says: written again it is the same bytes, and all that is done with its
 * fields until they are shown can be done.
 */


#include "../src/ngx_http_asana_hook_records.c"

#include "fuzz.h"


static void
fuzz_use(ngx_pool_t *pool, ngx_http_asana_hook_record_t *rec)
{
    ngx_str_t                      text, key;
    ngx_uint_t                     i;
    ngx_http_asana_hook_out_t      out;
    ngx_http_asana_hook_set_t      set;
    ngx_http_asana_hook_zone_t     zone;
    ngx_http_asana_hook_secret_t  *s;

    ngx_memzero(&out, sizeof(out));
    ngx_memzero(&set, sizeof(set));
    ngx_memzero(&zone, sizeof(zone));

    out.pool = pool;
    set.pool = pool;
    zone.inactive = 86400;

    for (i = 0; i < 3; i++) {
        s = ngx_http_asana_hook_set_push(&set, rec->len);
        check(s);

        s->created = rec->created;
        s->verified = rec->verified;
        s->pending = rec->pending;
        ngx_memcpy(s->id, rec->id, NGX_HTTP_ASANA_HOOK_ID_LEN);
        ngx_memcpy(s->data, rec->secret, rec->len);
    }

    ngx_http_asana_hook_set_expire(&set, 300);

    check(set.n == 0 || set.n == 3);
    check(set.n == 3 || rec->pending);

    ngx_str_set(&key, "key");

    ngx_http_asana_hook_out_hook(&out, &zone, &key, &set);
    text = fuzz_text(pool, out.head);

    check(fuzz_is_json(&text));
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int                            err;
    u_char                         buf[NGX_HTTP_ASANA_HOOK_RECORD + 255];
    MDB_val                        val;
    ngx_pool_t                    *pool;
    ngx_http_asana_hook_record_t   rec;

    pool = fuzz_pool();

    val.mv_data = fuzz_copy(pool, data, size);
    val.mv_size = size;

    err = ngx_http_asana_hook_record_parse(&val, &rec);

    if (err) {
        check(err == MDB_CORRUPTED);

    } else {
        check(ngx_http_asana_hook_record_encode(buf, &rec) == size);
        check(memcmp(buf, data, size) == 0);

        fuzz_use(pool, &rec);
    }

    ngx_destroy_pool(pool);

    return 0;
}
