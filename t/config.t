# Tests for the configuration: every error is found, and says where it lies.

use strict;
use warnings;

use lib 't/lib';

use Config;
use Test::More;

use Receiver;

my $t     = Receiver->new(expect => qr/\[emerg\]/);
my $start = $t->globals;
my $http  = $t->globals_http;
my $zone  = "asana_hook_zone \$uri zone=hooks:1m state=$t->{dir}/state";

sub conf {
    my ($lines, $location) = @_;
    $location = '' unless defined $location;
    return "$start http { $http $lines server { listen 127.0.0.1:$t->{port}; "
        . "location / { $location } } }";
}

sub bad {
    my ($name, $pattern, $lines, $location) = @_;
    my ($code, $text) = $t->test_config(conf($lines, $location));
    is $code, 1, "$name is refused";
    like $text, qr/\[emerg\].*$pattern/, 'and says so';
    return;
}

sub good {
    my ($name, $lines, $location) = @_;
    my ($code, $text) = $t->test_config(conf($lines, $location));
    is $code, 0, "$name is accepted" or diag $text;
    return;
}

good 'all parameters', "$zone max_size=1m inactive=1d pending=10m "
    . 'max_secrets=1000'
    . ';', 'asana_hook hooks;';
good 'a relative state', 'asana_hook_zone $uri zone=a:1m state=relative;';
good 'a trailing slash', "$zone/;";
good 'max_size in gigabytes', "$zone max_size=1g;";
good 'max_size of 2g', "$zone max_size=2g;" if $Config{ptrsize} > 4;

my $p = 'asana_hook_zone"? parameter';

bad 'no zone',      '"zone="',
    "asana_hook_zone \$uri state=$t->{dir}/s inactive=1d;";
bad 'no state',     '"state="',
    'asana_hook_zone $uri zone=a:1m inactive=1d;';
bad 'one argument', 'asana_hook_zone', 'asana_hook_zone $uri;';
bad 'two',          'asana_hook_zone', 'asana_hook_zone $uri zone=a:1m;';
bad 'an empty key', 'asana_hook_zone.*empty key',
    "asana_hook_zone '' zone=a:1m state=$t->{dir}/s;";
bad 'an unknown variable', 'nosuch',
    "asana_hook_zone \$nosuch zone=a:1m state=$t->{dir}/s;";
bad 'no size',   "$p \"zone=a\"", "asana_hook_zone \$uri zone=a state=s;";
bad 'no name',   "$p \"zone=:1m\"", "asana_hook_zone \$uri zone=:1m state=s;";
bad 'bad size',  "$p \"zone=a:x\"", "asana_hook_zone \$uri zone=a:x state=s;";
bad 'small size', "$p \"zone=a:4k\" is too small",
    "asana_hook_zone \$uri zone=a:4k state=s;";
bad 'empty state', "$p \"state=\"", 'asana_hook_zone $uri zone=a:1m state=;';

for my $value (
    qw(max_size=0 max_size=1023k max_size=x max_size= inactive=0 inactive=x
    inactive= pending=0 pending=x max_secrets=0 max_secrets=1001
    max_secrets=-1 max_secrets=x thread_pool=default nosuch=1 nosuch),
    $Config{ptrsize} > 4 ? () : 'max_size=2g'
    )
{
    bad $value, "$p \"$value\"", "$zone $value;";
}

# a store that hosts share, which this configuration does not load

for my $value ('poll=1s', 'timeout=2s', 'stale=1h') {
    my ($name) = $value =~ /^(\w+)/;
    bad "$value with a directory", "$p \"$name=\" has no use.*a directory",
        "$zone $value;";
}
$t->write_file('keys', '01' x 32 . "\n");
chmod 0600, "$t->{dir}/keys";
good 'a directory that is encrypted', "$zone encryption_key=$t->{dir}/keys;";
bad 'a key file that is not there', '"encryption_key" file ".*" cannot be opened',
    "$zone encryption_key=$t->{dir}/nosuch;";
$t->write_file('short', '01' x 31 . "\n");
chmod 0600, "$t->{dir}/short";
bad 'a short key', '"encryption_key" file ".*" is not usable at line 1',
    "$zone encryption_key=$t->{dir}/short;";
chmod 0644, "$t->{dir}/keys";
bad 'a key file that others can read', 'its owner alone may read.*chmod 600',
    "$zone encryption_key=$t->{dir}/keys;";
SKIP: {
    skip 'the module is inside', 4 if $ENV{ASANA_HOOK_STATIC};
    for my $uri ('postgresql://a@b/c', 'postgres://b/c?x=y') {
        bad $uri, "$p \"state=postgresql:\" needs.*postgres_module.*load_module",
            "asana_hook_zone \$uri zone=a:1m state=$uri;";
    }
}
for my $p2 ('state=relative', 'state=postgresql://b/c', 'pending=2m', 'zone=b:1m') {
    my ($name) = $p2 =~ /^(\w+=)/;
    bad "$name twice", "duplicate \"$p \"$name\"",
        "asana_hook_zone \$uri zone=a:1m pending=1m state=$t->{dir}/s $p2;";
}
SKIP: {
    my $fleet = do { local $t->{fleet} = 1; $t->globals };
    my ($second) = $fleet =~ /load_module (\S+postgres\S+);/;
    skip 'no libpq, or the module is inside', 15 if !$second || !-f $second;
    chmod 0600, "$t->{dir}/keys";
    my $first = $start;
    $start = $fleet;
    for (
        'a:plain-1@b/c', 'b/c?password=plain-1', 'b/c?p%61ssword=plain-1',
        'b/c?sslkey=k&sslpassword=plain-1', ':plain-1@/c'
    ) {
        my ($code, $text) = $t->test_config(conf("asana_hook_zone \$uri zone=a:1m"
            . " encryption_key=$t->{dir}/keys state=postgresql://$_;"));
        is $code, 1, 'a password in the URI is refused';
        like $text, qr/\[emerg\].*must not have a password/, 'and says so';
        unlike $text, qr/plain-1/, 'but not the password';
    }
    $start = $first;
}
bad 'a size of what is somewhere else', "$p \"max_size=\" has no use.*Postgre",
    'asana_hook_zone $uri zone=a:1m max_size=1m state=postgresql://b/c;';
bad 'the zone twice', 'asana_hook_zone.*"hooks" twice',
    "$zone; asana_hook_zone \$uri zone=hooks:1m state=$t->{dir}/other;";
bad 'the state twice', "$p \"state=[^\"]*\" is already used",
    "$zone; asana_hook_zone \$uri zone=other:1m state=$t->{dir}/state/;";
symlink "$t->{dir}/state", "$t->{dir}/link";
bad 'a link to the state', "$p \"state=[^\"]*\" is already used",
    "$zone; asana_hook_zone \$uri zone=other:1m state=$t->{dir}/link;";
bad 'a state that cannot be', 'nosuch/state',
    "asana_hook_zone \$uri zone=a:1m state=$t->{dir}/nosuch/state;";
bad 'a zone in a server', 'asana_hook_zone', '',
    "asana_hook_zone \$uri zone=a:1m state=$t->{dir}/s;";

bad 'an unknown zone', '"asana_hook".*"nosuch"', "$zone;",
    'asana_hook nosuch;';
bad 'a zone of another kind', 'hooks', 'limit_req_zone $uri zone=hooks:1m '
    . 'rate=1r/s;', 'asana_hook hooks;';
bad 'asana_hook twice', 'asana_hook" directive is duplicate', "$zone;",
    'asana_hook hooks; asana_hook off;';
bad 'no argument', 'asana_hook" directive', "$zone;", 'asana_hook;';
bad 'no name', 'asana_hook', "$zone;", 'asana_hook "";';
good 'asana_hook off', "$zone; asana_hook hooks;", 'asana_hook off;';

for my $value (qw(first open confirm gateway off $arg_enroll)) {
    good "enroll $value", "$zone; asana_hook_enroll $value;",
        'asana_hook hooks;';
}
bad 'another policy', '"last" in "asana_hook_enroll"', '',
    'asana_hook_enroll last;';
bad 'an empty policy', 'asana_hook_enroll', '', 'asana_hook_enroll "";';
bad 'enroll twice', 'asana_hook_enroll" directive is duplicate', '',
    'asana_hook_enroll first; asana_hook_enroll open;';

for my $code (qw(400 403 404 503 599)) {
    good "status $code", '', "asana_hook_status $code;";
}
for my $code (qw(399 600 410 200 x -1 403x)) {
    bad "status $code", "\"$code\" in \"asana_hook_status\"", '',
        "asana_hook_status $code;";
}
bad 'status twice', 'asana_hook_status" directive is duplicate', '',
    'asana_hook_status 400; asana_hook_status 401;';

for my $level (qw(info notice warn error)) {
    good "level $level", '', "asana_hook_log_level $level;";
}
bad 'another level',     '"debug" in "asana_hook_log_level"', '',
    'asana_hook_log_level debug;';
bad 'another heartbeat', '"drop" in "asana_hook_heartbeat"', '',
    'asana_hook_heartbeat drop;';
bad 'heartbeat twice', 'asana_hook_heartbeat" directive is duplicate', '',
    'asana_hook_heartbeat pass; asana_hook_heartbeat answer;';
bad 'level twice', 'asana_hook_log_level" directive is duplicate', '',
    'asana_hook_log_level info; asana_hook_log_level info;';
bad 'another ack', 'asana_hook_ack', '', 'asana_hook_ack maybe;';
good 'the rest', '', 'asana_hook_heartbeat answer; asana_hook_ack off;';

# a test of the configuration leaves the store alone

is join(' ', glob "$t->{dir}/state/*"), '', 'nothing was put into the state';
my @stat = stat "$t->{dir}/state";
is sprintf('%o', $stat[2] & 4095), 700, 'the directory is 0700';
is getpwuid($stat[4]), 'www-data', 'and belongs to the workers' if $> == 0;

# started without threads

if (!Receiver::threads()) {
    $t->run(conf("$zone;"));
    like $t->slurp('error.log'),
        qr/\[notice\].*handshake.*"hooks" makes its worker wait/,
        'the wait is told';
}

$t->end;

done_testing;
