
/*
 * Copyright (C) asana-hook contributors
 */


#ifndef _NGX_ASANA_JSON_H_INCLUDED_
#define _NGX_ASANA_JSON_H_INCLUDED_


#include "ngx_asana.h"


/*
 * Finds a member of a JSON object (RFC 8259) that is a string of plain
 * characters, without escapes; value points into the text then.  Depth is 1
 * for members of the outermost object, 2 for those of its members, whatever
 * their name.  NGX_DECLINED if there is no such member, NGX_ERROR if the text
 * is no object, is not balanced, or has the member twice or as anything else.
 */
ngx_int_t ngx_asana_json_member(u_char *p, size_t len, ngx_uint_t depth,
    ngx_str_t *name, ngx_str_t *value);

/*
 * Escapes text that may be anything for a JSON string: control, C1 and
 * bidirectional characters as \uXXXX, what is no UTF-8 as U+FFFD.  Writes to
 * dst, or only counts if it is NULL; returns the number of bytes.
 */
size_t ngx_asana_json_escape(u_char *dst, ngx_str_t *text);


#endif /* _NGX_ASANA_JSON_H_INCLUDED_ */
