# Tests for secrecy: no answer, log line, variable or metric holds a secret, a
# signature or a digest.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(hmac_sha256 sha256 sha256_hex);
use MIME::Base64 qw(encode_base64);
use Test::More;

use Receiver qw(secret_id sign wait_for);

my $t = Receiver->new(
    level    => 'debug',
    workers  => 2,
    zone     => 'max_secrets=2 pending=1h',
    expect   => qr/was removed or replaced/,
    location => 'asana_hook_enroll $arg_p; asana_hook_log_level info;
        access_log DIR/access.log hook;
        access_log DIR/variables.log all;
        add_header X-Variables "$asana_hook_status $asana_hook_key" always;
        add_header X-Id $asana_hook_secret_id always;',
    server => 'location /api { asana_hook_api hooks write=on;
            access_log DIR/variables.log all; }
        location /dry { asana_hook hooks; asana_hook_dry_run on;
            access_log DIR/variables.log all;
            proxy_pass http://127.0.0.1:APP; }',
    http => q{log_format all escape=none '$request $args $uri $host $status '
        '$asana_hook_status $asana_hook_key $asana_hook_secret_id '
        '$request_body $request_body_file $upstream_addr $upstream_status '
        '$sent_http_content_type $sent_http_allow $sent_http_retry_after '
        '$sent_http_x_id $sent_http_x_variables $upstream_http_x_app '
        '$request_completion $content_type $remote_user $cookie_x';}
);
for my $part (qw(location server http)) {
    $t->{$part} =~ s/DIR/$t->{dir}/g;
    $t->{$part} =~ s/APP/$t->{app_port}/g;
}
$t->app->run;

my @names   = qw(held first confirm pending off put api dry invalid gone);
my %secret  = map { $_ => "SeCrEt-$_-" . join '', 'k' .. 'z' } @names;
my @bad     = ('Sh0rt+secret.', 'ToO-long' x 40, 'with-blank secret-12345',
    "high-bytes-\xe4\xf6\xfc-1234567");
my @bodies  = ('{"events":[{"n":"' . 'v' x 100 . '"}]}', '{"events":[]}');
my $invalid = 'a1b2c3d4' x 8;
my @answers;

# A request; what it brings back is kept, without the echo of a handshake.

sub ask {
    my ($method, $uri, $headers, $text) = @_;
    my $r = $t->call($method, $uri, $headers, $text);
    my $answer = $r->{head} . $r->{body};
    $answer =~ s/^X-Hook-Secret: .*\r\n//m
        if $r->{status} == 200 && $uri !~ /^\/api/;
    push @answers, $answer;
    return $r->{status};
}

sub shake {
    my ($uri, $s) = @_;
    return ask('POST', $uri, ["X-Hook-Secret: $s"], '');
}

my (%status, %known);

sub deliver {
    my ($uri, $s) = @_;
    for my $body (@bodies) {
        $status{ ask('POST', $uri, ['X-Hook-Signature: ' . sign($s, $body)],
            $body) }++;
    }
    return;
}

sub put {
    my ($path, $s) = @_;
    return ask('PUT', "/api/hooks?key=localhost$path", ["X-Hook-Secret: $s"]);
}

is shake('/a?p=first', $secret{held}), 200, 'a handshake';
is shake('/a?p=first', $secret{held}), 200, 'again';
is shake('/a?p=first', $secret{first}), 403, 'refused by first';
is shake('/a?p=off', $secret{off}), 403, 'refused by off';
is shake('/a?p=nonsense', $secret{off}), 403, 'refused by nonsense';
is shake('/p?p=confirm', $secret{confirm}), 200, 'pending';
is shake('/p?p=confirm', $secret{pending}), 200, 'another one';
is put('/p', $secret{confirm}), 200, 'confirmed';
is put('/a', $secret{put}), 201, 'put';
is put('/a', $secret{api}), 409, 'one too many';
is shake('/a?p=open', $secret{first}), 403, 'refused by open';
is shake('/dry?p=first', $secret{dry}), 200, 'dry run';
is ask('PUT', '/api/hooks', ["X-Hook-Secret: $secret{api}"]), 400, 'no key';
is ask('POST', '/api/hooks', ["X-Hook-Secret: $secret{api}"], ''), 405,
    'no POST';
is ask('PUT', '/api/hooks?key=a',
    ["X-Hook-Secret: $secret{api}", "X-Hook-Secret: $secret{put}"]), 400,
    'two secrets';
for my $s (@bad) {
    is shake('/a', $s), 400, 'a malformed one';
    is put('/a', $s), 400, 'by PUT';
}
is ask('POST', '/a', ["X-Hook-Secret: $secret{held}",
    "X-Hook-Secret: $secret{off}"], ''), 400, 'two';
is ask('POST', '/a', ["X-Hook-Secret: $secret{held}",
    "X-Hook-Signature: $invalid"], ''), 400, 'with a signature';

for my $path ('/a', '/p', '/dry', '/none') {
    deliver($path, $secret{$_}) for @names;
    for my $sig ($invalid, uc $invalid, 'short-Signature', "$invalid$invalid") {
        ask('POST', $path, ["X-Hook-Signature: $sig"], $bodies[0]);
    }
    ask('POST', $path, [], $bodies[0]);
    ask('GET', $path, ["X-Hook-Secret: $secret{held}"]);
}
is_deeply [sort keys %status], [200, 403, 503], 'deliveries of all sorts';

ask('GET', "/api$_")
    for '', '/metrics', '/hooks', '/hooks?key=localhost/a',
    '/hooks?key=localhost/p', '/hooks?key=none', '/hooks?limit=1', '/x';
ask('DELETE', '/api/hooks?key=localhost/p&id=' . secret_id($secret{pending}));
ask('DELETE', '/api/hooks?key=localhost/a');
ok $t->reload, 'a reload';
deliver('/p', $secret{confirm});
rename "$t->{dir}/state", "$t->{dir}/away" or die $!;
is shake('/gone?p=first', $secret{gone}), 503, 'a store that fails';
is put('/gone', $secret{gone}), 503, 'by PUT';
rename "$t->{dir}/away", "$t->{dir}/state" or die $!;
ok wait_for(sub { $t->slurp('access.log') =~ m{/gone 503} }), 'logged';
$t->stop;

# all that must not be seen, with other ways to write it

for my $s (values %secret, @bad) {
    $known{$_} = 'a secret' for $s, unpack('H*', $s),
        substr(encode_base64($s, ''), 0, 24);
    $known{$_} = 'a digest' for substr(sha256_hex($s), 16),
        substr(sha256($s), 8);
    for my $body (@bodies) {
        $known{$_} = 'a signature' for sign($s, $body),
            hmac_sha256($body, $s),
            substr(encode_base64(hmac_sha256($body, $s), ''), 0, 24);
    }
}
$known{$invalid} = 'a wrong signature';
$known{'short-Signature'} = 'a malformed signature';

# what a text holds of it, in any case of letters

sub leaks {
    my ($text) = @_;
    $text = lc $text;
    my %found = map { $known{$_} => 1 } grep { index($text, lc) >= 0 }
        keys %known;
    return join ', ', sort keys %found;
}

my $log = $t->slurp('error.log');
my @entries = split m{^(?=\d{4}/\d\d/\d\d )}m, $log;
my @ours    = grep {/asana_hook/} @entries;
cmp_ok scalar(@ours), '>', 50, 'the module writes lines';
is leaks(join "\n", @ours), '', 'its lines in the error log hold nothing';
is leaks($t->slurp('access.log')), '', 'nor does the access log';
my $variables = $t->slurp('variables.log');
like $variables, qr/VERIFIED localhost\/a [0-9a-f]{16} /, 'variables';
is leaks($variables), '', 'hold nothing';
cmp_ok scalar(@answers), '>', 130, 'answers, metrics, listings';
is leaks(join "\n", @answers), '', 'hold nothing';

# above the level of debug, all lines

is leaks(join "\n", grep { !/\[debug\]/ } @entries), '',
    'no line but debug ones holds any of it';

# and this test would find it

is leaks("x$secret{held}y"), 'a secret', 'a secret would be seen';
is leaks('x' . uc sign($secret{held}, $bodies[0])), 'a signature',
    'a signature as well';
SKIP: {
    skip 'nginx has no debug log', 1 unless $log =~ /\[debug\]/;
    like leaks($log), qr/a secret/, "nginx's own lines of debugging show them";
}
$t->end;

done_testing;
