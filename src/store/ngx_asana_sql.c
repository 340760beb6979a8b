
/*
 * Copyright (C) asana-hook contributors
 */


/*
 * Whatever is not a number goes out and comes in as hex digits: there is
 * nothing to quote, whatever the server's settings are.
 */


#include "ngx_asana_sql.h"


/* bytes to begin with */
#define NGX_ASANA_SQL_SIZE  1024


static u_char *ngx_asana_sql_room(ngx_asana_sql_t *sql, size_t size);


void
ngx_asana_sql_init(ngx_asana_sql_t *sql, ngx_pool_t *pool)
{
    sql->pool = pool;
    sql->start = ngx_pnalloc(pool, NGX_ASANA_SQL_SIZE);
    sql->last = sql->start;
    sql->end = sql->start ? sql->start + NGX_ASANA_SQL_SIZE : NULL;
}


static u_char *
ngx_asana_sql_room(ngx_asana_sql_t *sql, size_t size)
{
    u_char  *p;
    size_t   len;

    len = sql->last - sql->start;

    if (sql->end && (size_t) (sql->end - sql->last) < size) {

        size += 2 * len;
        p = ngx_palloc(sql->pool, size);

        if (p) {
            ngx_memcpy(p, sql->start, len);
            (void) ngx_pfree(sql->pool, sql->start);

            sql->start = p;
            sql->last = p + len;
            sql->end = p + size;

        } else {
            sql->end = NULL;
        }
    }

    return sql->end ? sql->last : NULL;
}


/* formats are constants: what they make of numbers is short */

void
ngx_asana_sql_add(ngx_asana_sql_t *sql, const char *fmt, ...)
{
    va_list   args;
    size_t    size;

    size = 2 * ngx_strlen(fmt) + 8 * NGX_INT64_LEN;

    if (ngx_asana_sql_room(sql, size) == NULL) {
        return;
    }

    va_start(args, fmt);
    sql->last = ngx_vslprintf(sql->last, sql->end, fmt, args);
    va_end(args);
}


void
ngx_asana_sql_append(ngx_asana_sql_t *sql, ngx_asana_sql_t *other)
{
    size_t  len;

    len = other->last - other->start;

    if (ngx_asana_sql_room(sql, len + 1)) {
        sql->last = ngx_cpymem(sql->last, other->start, len);
    }
}


void
ngx_asana_sql_add_bytes(ngx_asana_sql_t *sql, u_char *p, size_t len)
{
    if (ngx_asana_sql_room(sql, 2 * len + sizeof("decode('','hex')")) == NULL)
    {
        return;
    }

    sql->last = ngx_cpymem(sql->last, "decode('", 8);
    sql->last = ngx_hex_dump(sql->last, p, len);
    sql->last = ngx_cpymem(sql->last, "','hex')", 8);
}


void
ngx_asana_sql_add_name(ngx_asana_sql_t *sql, ngx_str_t *name)
{
    ngx_asana_sql_add(sql, "convert_from(");
    ngx_asana_sql_add_bytes(sql, name->data, name->len);
    ngx_asana_sql_add(sql, ",'UTF8')");
}


int64_t
ngx_asana_sql_number(PGresult *res, int row, int column)
{
    char  *text;

    text = PQgetvalue(res, row, column);

    return text ? strtoll(text, NULL, 10) : 0;
}


time_t
ngx_asana_sql_time(PGresult *res, int row, int column)
{
    int64_t  n;

    n = ngx_asana_sql_number(res, row, column);

    return ngx_asana_time(n);
}


ssize_t
ngx_asana_sql_bytes(PGresult *res, int row, int column, u_char *buf,
    size_t size)
{
    size_t      i, len;
    ngx_int_t   n;
    u_char     *text;

    text = (u_char *) PQgetvalue(res, row, column);
    len = PQgetlength(res, row, column) / 2;

    if (len > size) {
        return NGX_ERROR;
    }

    for (i = 0; i < len; i++) {

        n = ngx_hextoi(text + 2 * i, 2);
        if (n == NGX_ERROR) {
            return NGX_ERROR;
        }

        buf[i] = (u_char) n;
    }

    return (ssize_t) len;
}
