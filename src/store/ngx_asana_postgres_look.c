
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_asana_postgres_look.h"


/* rows of the journal that are read at once */
#define NGX_ASANA_POSTGRES_ROWS  1000


static ngx_int_t ngx_asana_postgres_look_once(ngx_asana_pq_t *pq,
    ngx_asana_postgres_look_t *look);
static void ngx_asana_postgres_look_sql(ngx_asana_postgres_look_t *look,
    ngx_asana_sql_t *sql);
static ngx_int_t ngx_asana_postgres_look_journal(
    ngx_asana_postgres_look_t *look, PGresult *res);
static ngx_int_t ngx_asana_postgres_look_keys(ngx_asana_postgres_look_t *look,
    char *text, uint64_t position);
static void ngx_asana_postgres_look_count(ngx_asana_postgres_look_t *look,
    PGresult **res);


ngx_int_t
ngx_asana_postgres_look_init(ngx_asana_postgres_look_t *look,
    ngx_asana_backend_conf_t *conf, ngx_log_t *log)
{
    ngx_memzero(look, sizeof(ngx_asana_postgres_look_t));

    look->rc = NGX_ERROR;

    look->pool = ngx_create_pool(4096, log);
    if (look->pool == NULL) {
        return NGX_ERROR;
    }

    if (ngx_asana_rows_init(&look->rows, conf, look->pool, log) != NGX_OK
        || ngx_asana_rows_init(&look->page, conf, look->pool, log) != NGX_OK
        || ngx_array_init(&look->changed, look->pool, 16,
                          sizeof(ngx_asana_postgres_changed_t))
           != NGX_OK)
    {
        ngx_destroy_pool(look->pool);
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_asana_postgres_look_list(ngx_asana_postgres_look_t *look,
    ngx_asana_listing_t *listing)
{
    /* the request may go before the answer comes */

    look->after.len = listing->after.len;
    look->after.data = ngx_pstrdup(look->pool, &listing->after);
    look->limit = listing->limit;

    return look->after.data ? NGX_OK : NGX_ERROR;
}


void
ngx_asana_postgres_look_wipe(ngx_asana_postgres_look_t *look)
{
    ngx_asana_rows_wipe(&look->rows);
    ngx_asana_rows_wipe(&look->page);
    ngx_destroy_pool(look->pool);
}


void
ngx_asana_postgres_look(ngx_asana_pq_t *pq, ngx_asana_postgres_look_t *look)
{
    uint64_t    start;
    ngx_int_t   rc;
    ngx_uint_t  tries;
    ngx_log_t  *log;

    log = look->rows.log;
    start = ngx_asana_counters_now();

    rc = ngx_asana_pq_begin(pq, log);
    look->started = ngx_asana_pq_now();

    for (tries = 0; rc == NGX_OK; tries++) {

        rc = ngx_asana_postgres_look_once(pq, look);

        if (rc == NGX_OK) {
            look->rc = NGX_OK;
            break;
        }

        if (rc == NGX_AGAIN) {
            rc = (tries < 2) ? ngx_asana_pq_again(pq, log)
                             : ngx_asana_pq_fail(pq, NULL, log);
        }
    }

    if (look->rc == NGX_OK && look->rows.sets.nelts) {
        ngx_asana_counters_time(&look->rows.conf->counters->queries, start);
    }
}


static ngx_int_t
ngx_asana_postgres_look_once(ngx_asana_pq_t *pq,
    ngx_asana_postgres_look_t *look)
{
    PGresult         *res[7];
    ngx_int_t         rc;
    ngx_uint_t        i, n;
    ngx_asana_sql_t   sql;

    ngx_asana_sql_init(&sql, look->pool);
    ngx_asana_postgres_look_sql(look, &sql);

    n = 2 + (look->poll && look->from) + (look->rows.sets.nelts != 0)
        + (look->limit != 0) + 2 * look->count;

    rc = ngx_asana_pq_query(pq, &sql, res, n, look->rows.log);

    if (rc != NGX_OK) {
        return rc;
    }

    if (PQntuples(res[0]) != 1 || ngx_asana_sql_number(res[0], 0, 0)) {

        /* what it has is what was, a while ago */

        ngx_asana_pq_clear(res, n);
        return ngx_asana_pq_fail(pq, "it is a standby", look->rows.log);
    }

    i = 1;

    if (look->poll && look->from) {
        rc = ngx_asana_postgres_look_journal(look, res[i++]);
    }

    if (PQntuples(res[i])) {
        look->read = ngx_asana_sql_number(res[i], 0, 0);
    }

    i++;

    if (look->poll && (look->from == 0 || look->gap)) {
        look->gap = 1;
        look->more = 0;
        look->position = look->read;
    }

    if (rc == NGX_OK && look->rows.sets.nelts) {
        rc = ngx_asana_rows_load(&look->rows, res[i++]);
    }

    if (rc == NGX_OK && look->limit) {
        ngx_asana_rows_wipe(&look->page);
        rc = ngx_asana_rows_load(&look->page, res[i++]);
    }

    if (look->count && rc == NGX_OK) {
        ngx_asana_postgres_look_count(look, &res[i]);
    }

    ngx_asana_pq_clear(res, n);

    return rc;
}


/* secrets are read after the position: they are at least as new */

static void
ngx_asana_postgres_look_sql(ngx_asana_postgres_look_t *look,
    ngx_asana_sql_t *sql)
{
    ngx_str_t  *zone;

    zone = &look->rows.conf->zone;

    ngx_asana_sql_add(sql,
                      "BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY;"
                      "SET LOCAL statement_timeout=%M;"
                      "SELECT pg_is_in_recovery()::int;",
                      look->rows.conf->timeout);

    if (look->poll && look->from) {
        ngx_asana_sql_add(sql, "SELECT position,array_to_string(ARRAY("
                               "SELECT encode(k,'hex') FROM unnest(keys) k)"
                               ",' ') FROM asana_hook.journal"
                               " WHERE position>=%uL AND zone=", look->from);
        ngx_asana_sql_add_name(sql, zone);
        ngx_asana_sql_add(sql, " ORDER BY position LIMIT %d;",
                          NGX_ASANA_POSTGRES_ROWS);
    }

    ngx_asana_sql_add(sql, "SELECT position FROM asana_hook.zones WHERE zone="
                      );
    ngx_asana_sql_add_name(sql, zone);
    ngx_asana_sql_add(sql, ";");

    if (look->rows.sets.nelts) {
        ngx_asana_rows_select(&look->rows, sql, NULL, 0);
    }

    if (look->limit) {
        ngx_asana_rows_select_page(&look->page, sql, &look->after,
                                   look->limit);
    }

    if (look->count) {
        ngx_asana_sql_add(sql, "SELECT count(DISTINCT key),count(*),"
                               "count(*) FILTER (WHERE pending),"
                               "pg_total_relation_size('asana_hook.secrets')"
                               " FROM asana_hook.secrets WHERE zone=");
        ngx_asana_sql_add_name(sql, zone);
        ngx_asana_sql_add(sql, ";SELECT encode(substring(sealed FROM 2 FOR 4),"
                               "'hex'),count(*) FROM asana_hook.secrets"
                               " WHERE zone=");
        ngx_asana_sql_add_name(sql, zone);
        ngx_asana_sql_add(sql, " GROUP BY 1 ORDER BY 2 DESC LIMIT %d;",
                          NGX_ASANA_SEAL_USED);
    }

    ngx_asana_sql_add(sql, "COMMIT;");
}


/* the first row is the one that is known, or others are missing */

static ngx_int_t
ngx_asana_postgres_look_journal(ngx_asana_postgres_look_t *look,
    PGresult *res)
{
    int  row, n;

    n = PQntuples(res);

    if (n == 0 || PQnfields(res) != 2
        || (uint64_t) ngx_asana_sql_number(res, 0, 0) != look->from) {
        look->gap = 1;
        return NGX_OK;
    }

    look->position = look->from;

    for (row = 1; row < n; row++) {
        look->position = ngx_asana_sql_number(res, row, 0);

        if (ngx_asana_postgres_look_keys(look, PQgetvalue(res, row, 1),
                                         look->position)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }
    look->more = (n == NGX_ASANA_POSTGRES_ROWS);

    return NGX_OK;
}


/* "6162 63", as hex digits */

static ngx_int_t
ngx_asana_postgres_look_keys(ngx_asana_postgres_look_t *look, char *text,
    uint64_t position)
{
    u_char                        *p;
    size_t                         i, len, digits;
    ngx_asana_postgres_changed_t  *changed;

    for ( /* void */ ; *text; text += digits + (text[digits] == ' ')) {

        digits = strcspn(text, " ");
        len = digits / 2;

        changed = ngx_array_push(&look->changed);
        if (changed == NULL) {
            return NGX_ERROR;
        }

        changed->position = position;
        changed->key.len = len;
        changed->key.data = ngx_pnalloc(look->pool, len + 1);

        if (changed->key.data == NULL) {
            return NGX_ERROR;
        }

        p = (u_char *) text;

        for (i = 0; i < len; i++) {
            changed->key.data[i] = (u_char) ngx_hextoi(p + 2 * i, 2);
        }
    }

    return NGX_OK;
}


static void
ngx_asana_postgres_look_count(ngx_asana_postgres_look_t *look, PGresult **res)
{
    int     row;
    u_char  id[NGX_ASANA_SEAL_ID_LEN];

    look->stat.keys = ngx_asana_sql_number(res[0], 0, 0);
    look->stat.secrets = ngx_asana_sql_number(res[0], 0, 1);
    look->stat.pending = ngx_asana_sql_number(res[0], 0, 2);
    look->stat.used = ngx_asana_sql_number(res[0], 0, 3);

    ngx_asana_seal_usage(look->rows.conf->seal, &look->stat.usage);

    for (row = 0; row < PQntuples(res[1]); row++) {
        if (ngx_asana_sql_bytes(res[1], row, 0, id, sizeof(id))
            == sizeof(id))
        {
            ngx_asana_seal_count(&look->stat.usage, id,
                                 ngx_asana_sql_number(res[1], row, 1));
        }
    }
}


void
ngx_asana_postgres_look_answer(ngx_asana_postgres_look_t *look,
    ngx_asana_lookup_t *lookup)
{
    ngx_asana_row_set_t  *set;

    lookup->rc = NGX_ERROR;
    lookup->version = look->version;
    lookup->position = look->read;

    set = ngx_asana_rows_find(&look->rows, &lookup->key);

    if (look->rc == NGX_OK && set && set->rc == NGX_OK) {
        lookup->rc = ngx_asana_secrets_append(lookup->secrets, &set->secrets);
    }
}


ngx_int_t
ngx_asana_postgres_look_visit(ngx_asana_postgres_look_t *look,
    ngx_asana_listing_t *listing)
{
    ngx_int_t             rc;
    ngx_uint_t            i;
    ngx_asana_row_set_t  *set;

    rc = look->rc;
    set = look->page.sets.elts;

    for (i = 0; rc == NGX_OK && i < look->page.sets.nelts; i++) {
        if (set[i].rc == NGX_OK) {
            rc = listing->visit(listing, &set[i].key, &set[i].secrets);
        }
    }

    return rc;
}


ngx_int_t
ngx_asana_postgres_look_walk(ngx_asana_pq_t *pq,
    ngx_asana_backend_conf_t *conf, ngx_asana_listing_t *listing,
    ngx_log_t *log)
{
    ngx_int_t                   rc;
    ngx_uint_t                  n;
    ngx_asana_row_set_t        *set;
    ngx_asana_postgres_look_t   look;

    if (ngx_asana_postgres_look_init(&look, conf, log) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_asana_postgres_look_list(&look, listing) == NGX_OK) {
        ngx_asana_postgres_look(pq, &look);
    }

    rc = ngx_asana_postgres_look_visit(&look, listing);

    set = look.page.sets.elts;
    n = look.page.sets.nelts;

    if (rc == NGX_OK && n == look.limit) {

        /* the last ones may have been left out */

        listing->after.len = set[n - 1].key.len;
        ngx_memcpy(listing->after.data, set[n - 1].key.data,
                   set[n - 1].key.len);

        rc = NGX_DONE;
    }

    ngx_asana_postgres_look_wipe(&look);

    return rc;
}
