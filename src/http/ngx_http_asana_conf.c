
/*
 * Copyright (C) asana-hook contributors
 */


#include "ngx_http_asana_conf.h"

#include "ngx_asana_lmdb.h"


typedef enum {
    NGX_HTTP_ASANA_PARAM_NONE = 0,
    NGX_HTTP_ASANA_PARAM_ZONE,
    NGX_HTTP_ASANA_PARAM_STATE,
    NGX_HTTP_ASANA_PARAM_SIZE,
    NGX_HTTP_ASANA_PARAM_TIME,
    NGX_HTTP_ASANA_PARAM_NUMBER
} ngx_http_asana_conf_param_e;


typedef struct {
    ngx_str_t                    name;
    ngx_http_asana_conf_param_e  type;
    size_t                       offset;
    ngx_int_t                    preset;
    ngx_int_t                    min;
    ngx_int_t                    max;
} ngx_http_asana_conf_param_t;


#define ngx_http_asana_conf_field(azcf, param)                                \
    (ngx_int_t *) ((u_char *) (azcf) + (param)->offset)


static char *ngx_http_asana_conf_add(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ssize_t size);
static ngx_int_t ngx_http_asana_conf_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_http_asana_zone_conf_t *ngx_http_asana_conf_before(
    ngx_shm_zone_t *shm_zone);
static ngx_int_t ngx_http_asana_conf_unique(
    ngx_http_asana_zone_conf_t *azcf, ngx_log_t *log);
static ngx_int_t ngx_http_asana_conf_parameter(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ssize_t *size);
static ngx_int_t ngx_http_asana_conf_name(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ssize_t *size);
static ngx_int_t ngx_http_asana_conf_state(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s);
static ngx_int_t ngx_http_asana_conf_number(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ngx_http_asana_conf_param_t *param);


static ngx_http_asana_conf_param_t  ngx_http_asana_conf_params[] = {

    { ngx_string("zone="), NGX_HTTP_ASANA_PARAM_ZONE, 0, 0, 0, 0 },
    { ngx_string("state="), NGX_HTTP_ASANA_PARAM_STATE, 0, 0, 0, 0 },

    { ngx_string("max_size="), NGX_HTTP_ASANA_PARAM_SIZE,
      offsetof(ngx_http_asana_zone_conf_t, store.max_size),
      256 * 1024 * 1024, 1024 * 1024, NGX_MAX_INT_T_VALUE },

    { ngx_string("inactive="), NGX_HTTP_ASANA_PARAM_TIME,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.inactive),
      24 * 60 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_string("pending="), NGX_HTTP_ASANA_PARAM_TIME,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.pending),
      5 * 60, 1, NGX_MAX_INT32_VALUE },

    { ngx_string("max_secrets="), NGX_HTTP_ASANA_PARAM_NUMBER,
      offsetof(ngx_http_asana_zone_conf_t, store.limits.max_secrets),
      16, 1, 1000 },

    { ngx_null_string, NGX_HTTP_ASANA_PARAM_NONE, 0, 0, 0, 0 }
};


char *
ngx_http_asana_conf_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_main_conf_t *amcf = conf;

    ssize_t                            size;
    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_http_asana_zone_conf_t        *azcf;
    ngx_http_asana_conf_param_t       *param;
    ngx_http_compile_complex_value_t   ccv;

    value = cf->args->elts;

    azcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_asana_zone_conf_t));
    if (azcf == NULL) {
        return NGX_CONF_ERROR;
    }

    for (param = ngx_http_asana_conf_params; param->name.len; param++) {
        if (param->preset) {
            *ngx_http_asana_conf_field(azcf, param) = param->preset;
        }
    }

    if (value[1].len == 0) {
        return "has an empty key";
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = &azcf->key;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    size = 0;
    azcf->zones = &amcf->zones;

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_asana_conf_parameter(cf, azcf, &value[i], &size)
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    if (azcf->name.len == 0 || azcf->path == NULL) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" must have the parameter "
                           "\"%s=\"", azcf->name.len ? "state" : "zone");
        return NGX_CONF_ERROR;
    }

    return ngx_http_asana_conf_add(cf, azcf, size);
}


static char *
ngx_http_asana_conf_add(ngx_conf_t *cf, ngx_http_asana_zone_conf_t *azcf,
    ssize_t size)
{
    ngx_shm_zone_t               *shm_zone;
    ngx_http_asana_zone_conf_t  **zp;

    shm_zone = ngx_shared_memory_add(cf, &azcf->name, size,
                                     &ngx_http_asana_hook_module);
    if (shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    if (shm_zone->data) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" defines the zone \"%V\" twice",
                           &azcf->name);
        return NGX_CONF_ERROR;
    }

    zp = ngx_array_push(azcf->zones);
    if (zp == NULL) {
        return NGX_CONF_ERROR;
    }

    *zp = azcf;

    azcf->store.zone = azcf->name;
    azcf->store.state = azcf->path->name;

    azcf->zone = ngx_asana_zone_create(cf->pool, &ngx_asana_lmdb,
                                       &azcf->store);
    if (azcf->zone == NULL) {
        return NGX_CONF_ERROR;
    }

    shm_zone->init = ngx_http_asana_conf_init_zone;
    shm_zone->data = azcf;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_asana_conf_parameter(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ssize_t *size)
{
    ngx_str_t                     s;
    ngx_http_asana_conf_param_t  *param;

    for (param = ngx_http_asana_conf_params; param->name.len; param++) {
        if (value->len > param->name.len
            && ngx_strncmp(value->data, param->name.data, param->name.len)
               == 0)
        {
            break;
        }
    }

    s.data = value->data + param->name.len;
    s.len = value->len - param->name.len;

    switch (param->type) {

    case NGX_HTTP_ASANA_PARAM_ZONE:
        return ngx_http_asana_conf_name(cf, azcf, value, &s, size);

    case NGX_HTTP_ASANA_PARAM_STATE:
        return ngx_http_asana_conf_state(cf, azcf, value, &s);

    case NGX_HTTP_ASANA_PARAM_NONE:
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"%V\"",
                           value);
        return NGX_ERROR;

    default:
        return ngx_http_asana_conf_number(cf, azcf, value, &s, param);
    }
}


static ngx_int_t
ngx_http_asana_conf_name(ngx_conf_t *cf, ngx_http_asana_zone_conf_t *azcf,
    ngx_str_t *value, ngx_str_t *s, ssize_t *size)
{
    u_char     *p;
    ngx_str_t   bytes;

    p = ngx_strlchr(s->data, s->data + s->len, ':');

    if (p == NULL || p == s->data) {
        goto invalid;
    }

    azcf->name.data = s->data;
    azcf->name.len = p - s->data;

    bytes.data = p + 1;
    bytes.len = s->data + s->len - bytes.data;

    if (azcf->name.len == 3 && ngx_strncmp(azcf->name.data, "off", 3) == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" parameter \"%V\" names the "
                           "zone \"off\", which is what turns a receiver off; "
                           "give it another name", value);
        return NGX_ERROR;
    }

    *size = ngx_parse_size(&bytes);

    if (*size == NGX_ERROR) {
        goto invalid;
    }

    if (*size < (ssize_t) (8 * ngx_pagesize)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"asana_hook_zone\" parameter \"%V\" is too "
                           "small, at least %uzk is needed", value,
                           8 * ngx_pagesize / 1024);
        return NGX_ERROR;
    }

    return NGX_OK;

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid \"asana_hook_zone\" parameter \"%V\", it must "
                       "be \"zone=name:size\"", value);
    return NGX_ERROR;
}


static ngx_int_t
ngx_http_asana_conf_number(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s,
    ngx_http_asana_conf_param_t *param)
{
    ngx_int_t    n;
    const char  *unit;

    switch (param->type) {

    case NGX_HTTP_ASANA_PARAM_SIZE:
        n = (ngx_int_t) ngx_parse_offset(s);
        unit = " bytes (or with \"k\", \"m\", \"g\")";
        break;

    case NGX_HTTP_ASANA_PARAM_TIME:
        n = ngx_parse_time(s, 1);
        unit = " seconds (or with \"s\", \"m\", \"h\", \"d\")";
        break;

    default: /* NGX_HTTP_ASANA_PARAM_NUMBER */
        n = ngx_atoi(s->data, s->len);
        unit = "";
    }

    if (n < param->min || n > param->max) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid \"asana_hook_zone\" parameter \"%V\", it "
                           "must be %i to %i%s", value, param->min, param->max,
                           unit);
        return NGX_ERROR;
    }

    *ngx_http_asana_conf_field(azcf, param) = n;

    return NGX_OK;
}


/* a path that nginx makes for its workers, as it makes "proxy_temp_path" */

static ngx_int_t
ngx_http_asana_conf_state(ngx_conf_t *cf,
    ngx_http_asana_zone_conf_t *azcf, ngx_str_t *value, ngx_str_t *s)
{
    ngx_uint_t                    i;
    ngx_path_t                   *path;
    ngx_http_asana_zone_conf_t  **zones;

    path = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
    if (path == NULL) {
        return NGX_ERROR;
    }

    while (s->len > 1 && s->data[s->len - 1] == '/') {
        s->len--;
    }

    path->name.len = s->len;
    path->name.data = ngx_pnalloc(cf->pool, s->len + 1);
    if (path->name.data == NULL) {
        return NGX_ERROR;
    }

    ngx_cpystrn(path->name.data, s->data, s->len + 1);

    if (ngx_conf_full_name(cf->cycle, &path->name, 0) != NGX_OK) {
        return NGX_ERROR;
    }

    zones = azcf->zones->elts;

    for (i = 0; i < azcf->zones->nelts; i++) {
        if (ngx_strcmp(zones[i]->path->name.data, path->name.data) == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"asana_hook_zone\" parameter \"%V\" is "
                               "already used by the zone \"%V\"", value,
                               &zones[i]->name);
            return NGX_ERROR;
        }
    }

    path->data = azcf;
    path->conf_file = cf->conf_file->file.name.data;
    path->line = cf->conf_file->line;
    azcf->path = path;

    return ngx_add_path(cf, &azcf->path);
}


/* an ngx_shm_zone_init_pt: in the master */

static ngx_int_t
ngx_http_asana_conf_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_http_asana_zone_conf_t *old = data;

    ngx_uint_t                   resized;
    ngx_http_asana_zone_conf_t  *azcf;

    azcf = shm_zone->data;

    if (ngx_http_asana_conf_unique(azcf, shm_zone->shm.log) != NGX_OK) {
        return NGX_ERROR;
    }

    resized = (old == NULL);

    if (resized) {
        old = ngx_http_asana_conf_before(shm_zone);
    }

    if (old
        && (ngx_strcmp(azcf->key.value.data, old->key.value.data) != 0
            || ngx_strcmp(azcf->path->name.data, old->path->name.data) != 0))
    {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "asana_hook_zone \"%V\" uses the key \"%V\" and "
                      "the state \"%V\" while it lives with the key "
                      "\"%V\" and the state \"%V\"; give the changed "
                      "zone another name, or restart nginx",
                      &shm_zone->shm.name, &azcf->key.value,
                      &azcf->path->name, &old->key.value, &old->path->name);
        return NGX_ERROR;
    }

    return ngx_asana_zone_init(azcf->zone, shm_zone, old ? old->zone : NULL,
                               resized);
}


/* nginx gives a zone of another size no data; NULL: there was no such zone */

static ngx_http_asana_zone_conf_t *
ngx_http_asana_conf_before(ngx_shm_zone_t *shm_zone)
{
    ngx_uint_t        i;
    ngx_shm_zone_t   *old;
    ngx_list_part_t  *part;

    for (part = (ngx_list_part_t *) &ngx_cycle->shared_memory.part;
         part;
         part = part->next)
    {
        old = part->elts;

        for (i = 0; i < part->nelts; i++) {
            if (&old[i] != shm_zone
                && old[i].tag == shm_zone->tag
                && old[i].shm.name.len == shm_zone->shm.name.len
                && ngx_strncmp(old[i].shm.name.data, shm_zone->shm.name.data,
                               shm_zone->shm.name.len)
                   == 0)
            {
                return old[i].data;
            }
        }
    }

    return NULL;
}


/*
 * LMDB's locks break if one process opens the same files twice: a symbolic
 * link must not make two zones of one store.
 */

static ngx_int_t
ngx_http_asana_conf_unique(ngx_http_asana_zone_conf_t *azcf, ngx_log_t *log)
{
    ngx_str_t                    *name;
    ngx_uint_t                    i;
    ngx_file_info_t               fi, other;
    ngx_http_asana_zone_conf_t  **zones;

    name = &azcf->path->name;

    if (ngx_file_info(name->data, &fi) == NGX_FILE_ERROR) {
        goto failed;
    }

    zones = azcf->zones->elts;

    for (i = 0; zones[i] != azcf; i++) {

        name = &zones[i]->path->name;

        if (ngx_file_info(name->data, &other) == NGX_FILE_ERROR) {
            goto failed;
        }

        if (ngx_file_uniq(&fi) != ngx_file_uniq(&other)
            || fi.st_dev != other.st_dev)
        {
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "\"asana_hook_zone\" parameter \"state=%V\" is already "
                      "used by the zone \"%V\", as \"%V\"",
                      &azcf->path->name, &zones[i]->name, name);
        return NGX_ERROR;
    }

    return NGX_OK;

failed:

    ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                  ngx_file_info_n " \"%V\" failed", name);

    return NGX_ERROR;
}


char *
ngx_http_asana_conf_named(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_str_t        *value;
    ngx_shm_zone_t  **shm_zone;

    shm_zone = (ngx_shm_zone_t **) ((u_char *) conf + cmd->offset);

    if (*shm_zone != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        *shm_zone = NULL;
        return NGX_CONF_OK;
    }

    if (value[1].len == 0) {
        return "has an empty zone name";
    }

    *shm_zone = ngx_shared_memory_add(cf, &value[1], 0,
                                      &ngx_http_asana_hook_module);
    if (*shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_asana_conf_enroll(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_loc_conf_t *ahcf = conf;

    char                *rv;
    ngx_str_t           *value;
    ngx_asana_enroll_e   enroll;

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK || ahcf->enroll->lengths) {
        return rv;
    }

    value = cf->args->elts;

    if (ngx_asana_policy_enroll(&value[1], &enroll) == NGX_OK) {
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" in \"asana_hook_enroll\", it "
                       "must be \"first\", \"open\", \"confirm\", \"gateway\" "
                       "or \"off\"", &value[1]);

    return NGX_CONF_ERROR;
}


char *
ngx_http_asana_conf_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_asana_loc_conf_t *ahcf = conf;

    ngx_int_t   n;
    ngx_str_t  *value;

    if (ahcf->status != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    n = ngx_atoi(value[1].data, value[1].len);

    /*
     * To Asana 410 says that the webhook may be deleted; nginx answers nothing
     * to 408, 444 and 499, and has a use of its own for 494 to 498.
     */

    if (n < 400 || n > 599
        || n == 408 || n == 410 || n == 444 || (n >= 494 && n <= 499))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\" in \"asana_hook_status\", it "
                           "must be 400 to 599, but not 408, 410, 444 or 494 "
                           "to 499", &value[1]);
        return NGX_CONF_ERROR;
    }

    ahcf->status = n;

    return NGX_CONF_OK;
}


char *
ngx_http_asana_conf_enum(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    u_char           *p;
    u_char            allowed[64];
    ngx_str_t        *value;
    ngx_uint_t       *np;
    ngx_conf_enum_t  *e;

    np = (ngx_uint_t *) ((u_char *) conf + cmd->offset);

    if (*np != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    for (e = cmd->post; e->name.len; e++) {
        if (ngx_strcmp(e->name.data, value[1].data) == 0) {
            *np = e->value;
            return NGX_CONF_OK;
        }
    }

    p = allowed;

    for (e = cmd->post; e->name.len; e++) {
        p = ngx_sprintf(p, " \"%V\"", &e->name);
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\" in \"%V\" directive, it must be "
                       "one of%*s", &value[1], &cmd->name,
                       (size_t) (p - allowed), allowed);

    return NGX_CONF_ERROR;
}
