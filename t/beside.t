# Tests for what stands beside the module: codes that nginx treats in its own
# way, conditional requests, "return", units in messages, lines that help.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver;

my $t     = Receiver->new(expect => qr/\[emerg\]/);
my $start = $t->globals;
my $http  = $t->globals_http;

sub check {
    my ($zone, $location) = @_;
    return $t->test_config("$start http { $http asana_hook_zone \$uri $zone "
            . "state=$t->{dir}/state; server { listen 127.0.0.1:$t->{port}; "
            . "location / { $location } } }");
}

for my $code (408, 410, 444, 494 .. 499) {
    my ($rc, $text) = check('zone=a:1m', "asana_hook_status $code;");
    is $rc, 1, "$code is refused";
    like $text, qr/\[emerg\].*"\Q$code\E" in "asana_hook_status"/, 'by name';
}
for my $code (400, 403, 409, 411, 443, 445, 493, 500, 599) {
    my ($rc, $text) = check('zone=a:1m', "asana_hook_status $code;");
    is $rc, 0, "$code is a code" or diag $text;
}

my ($rc, $text) = check('zone=off:1m', '');
is $rc, 1, 'a zone named off';
like $text, qr/\[emerg\].*"asana_hook_zone".*"zone=off:1m"/, 'is refused';

my %unit = (
    'inactive=2x'     => 'seconds', 'pending=0'     => 'seconds',
    'max_size=1x'     => 'bytes',   'max_size=1k'   => 'bytes',
);
for my $parameter (sort keys %unit) {
    ($rc, $text) = check("zone=a:1m $parameter", '');
    is $rc, 1, "$parameter is refused";
    like $text, qr/\[emerg\].*"\Q$parameter\E".* to \d+ $unit{$parameter}/,
        'with its bounds and unit';
}

($rc, $text) = check('zone=a:1m', 'asana_hook a; return 200;');
is $rc, 0, 'return beside asana_hook';
like $text, qr/\[warn\].*"return" beside "asana_hook"/, 'is warned of';
for my $lines ('asana_hook a;', 'return 200;',
    'asana_hook a; if ($arg_x) { return 404; }')
{
    ($rc, $text) = check('zone=a:1m', $lines);
    is $rc, 0, $lines;
    unlike $text, qr/\[warn\]/, 'without a warning';
}

($rc, $text) = check('zone=a:1m', 'asana_hook a; asana_hook_enroll gateway;');
is $rc, 0, 'a policy that waits for a gateway';
like $text, qr/\[warn\].*"asana_hook_enroll gateway".*"a"/, 'is warned of';
($rc, $text) = check('zone=a:1m', 'asana_hook a; asana_hook_enroll gateway; }
    location /create { asana_hook_gateway a; proxy_pass http://127.0.0.1:1;');
is $rc, 0, 'and with one';
unlike $text, qr/\[warn\]/, 'is not';

for my $directive ('asana_hook_log_level', 'asana_hook_heartbeat') {
    ($rc, $text) = check('zone=a:1m', "$directive nosuch;");
    is $rc, 1, "$directive nosuch";
    like $text, qr/\[emerg\].*"nosuch" in "$directive".*(?:"info"|"pass")/,
        'is refused with what is allowed';
}

# conditional requests, the line of a refusal

$t = Receiver->new->app->run;
my $secret = 'a-secret-of-printable-text-0123456789';
for my $header ('If-Match: "x"', 'If-None-Match: *',
    'If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT')
{
    my ($path) = $header =~ /^([^:]+)/;
    my $r = $t->call('POST', "/$path", ["X-Hook-Secret: $secret", $header]);
    is $r->{status}, 200, "a handshake with $header";
    like $r->{head}, qr/^X-Hook-Secret: \Q$secret\E\r$/m, 'is echoed';
}

my $other = 'another-secret-of-text-0123456789';
for my $path ('/If-Match', '/a%20%C2%9B%22') {
    $t->handshake($path, $secret);
    is $t->handshake($path, $other)->{status}, 403, "$path: refused";
}
my $log = $t->slurp('error.log');
like $log, qr{"localhost/If-Match": its key already has an active secret},
    'the line names the key and the reason';
like $log, qr{"asana-hook revoke localhost/If-Match"}, 'and the command';
like $log, qr{"asana-hook revoke ref:localhost%2Fa%20%C2%9B%22"},
    'a key that a terminal or a shell would take apart';
unlike $log, qr/\xc2\x9b/, 'is not shown raw';
$t->end;

# a variable of "asana_hook_enroll" that a client can fill

$t = Receiver->new(location => 'asana_hook_enroll $http_x_policy;')->app->run;
is $t->call('POST', '/a', ["X-Hook-Secret: $secret", "X-Policy: \xc2\x9b1"])
    ->{status}, 403, 'an unknown policy is off';
$log = $t->slurp('error.log');
like $log, qr/unknown value "%C2%9B1"/, 'and logged';
unlike $log, qr/\xc2\x9b/, 'without what turns a terminal';
$t->end;

done_testing;
