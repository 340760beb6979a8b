
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_JSON_H_INCLUDED_
#define _NGX_ASANA_JSON_H_INCLUDED_


#include "ngx_asana.h"


/*
 * Finds a string member of the outermost object of a JSON text (RFC 8259).
 * The name has at most 32 bytes of ASCII.  The value is written to
 * value->data, which has room for value->len bytes; value->len becomes its
 * length.  NGX_DECLINED if there is no such member; NGX_ERROR if the text is
 * no JSON object, is nested deeper than 64, or has the member twice, longer
 * than the room or as anything else.
 */
ngx_int_t ngx_asana_json_member(u_char *p, size_t len, ngx_str_t *name,
    ngx_str_t *value);

/* The same for a string member path[1] of the outermost object's path[0]. */
ngx_int_t ngx_asana_json_inner(u_char *p, size_t len, ngx_str_t path[2],
    ngx_str_t *value);

/*
 * Escapes text that may be anything for a JSON string: control, C1 and
 * bidirectional characters as \uXXXX, what is no UTF-8 as U+FFFD.  Writes to
 * dst, or only counts if it is NULL; returns the number of bytes.
 */
size_t ngx_asana_json_escape(u_char *dst, ngx_str_t *text);


#endif /* _NGX_ASANA_JSON_H_INCLUDED_ */
