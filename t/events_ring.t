# Tests for the events of a zone: each decision that was no success once, with
# its reason, key, secret and client, whoever dies and whatever is reloaded.

use strict;
use warnings;

use lib 't/lib';

use File::Temp qw(tempdir);
use IO::Socket::UNIX;
use JSON::PP qw(decode_json);
use Test::More;

use Receiver qw(port raw request response secret_id sign wait_for);

# the ring, outside of nginx

my $dir    = tempdir(CLEANUP => 1);
my $cc     = $ENV{CC} || 'cc';
my ($tree) = glob 'build/*/nginx';
my $incs   = qx(tools/nginx-flags $tree incs);
chomp $incs;
system("$cc -g -O1 -D_GNU_SOURCE -Wall -Wextra -Werror -Wno-unused-parameter"
        . " -Isrc $incs -o $dir/events t/lib/events.c") == 0
    or BAIL_OUT('the driver does not compile');

# what it prints: { section => [[number, line], ...] }, the last of each

sub ring {
    my @args = @_;
    my (%said, $in);
    my @lines = qx($dir/events @args);
    is $?, 0, "a ring: @args";
    for my $line (@lines) {
        chomp $line;
        if ($line =~ /^[a-z]/) { $in = $line; push @{ $said{$in} }, [] }
        else                   { push @{ $said{$in}[-1] }, $line }
    }
    ok !(grep {/torn/} @lines), 'no event is torn';
    return %said;
}

sub first { my ($list) = @_; return map { (split / /)[0] } @$list }

for my $case ([32768, 4], [65536, 8], [1048576, 128], [8388608, 1024],
    [67108864, 1024])
{
    my ($size, $most) = @$case;
    my $n = $most + 7;
    my %said = ring($size, $n);
    is_deeply [first($said{all}[0])], [reverse 8 .. $n],
        "a zone of $size bytes has the last $most";
}
my %said = ring(1048576, 3);
is_deeply $said{all}[0], ['3 3', '2 2', '1 1'], 'as many as there are';
%said = ring(1048576, 449);
is $said{all}[0][0], '449 426 cut', 'a key that is too long is cut';
is $said{all}[0][23], '426 426', 'one that fits is not';
for my $case ([32768, 9, 65536], [65536, 9, 32768], [65536, 2, 32768],
    [65536, 1, 65536])
{
    %said = ring(@$case);
    my @all  = @{ $said{all}[0] };
    my $most = $case->[2] / 8192;
    splice @all, $most if @all > $most;
    is_deeply $said{copy}[0], \@all, 'and a new zone of another size takes '
        . 'them over';
}

# a process that dies at any byte of what it writes

%said = ring(65536, 20, 'die');
my @dead = @{ $said{dead} };
cmp_ok scalar(@dead), '>', 450, 'deaths';
is_deeply [first($dead[0])], [reverse 12 .. 19], 'before it wrote anything';
for my $n (1 .. 8) {
    is_deeply [first($dead[$n])], [reverse 12 + $n .. 19],
        "dead: $n, whose events nobody sees";
}
is_deeply [first($said{all}[0])], [20, 10349], 'who comes later is seen';

# in nginx

my $sock_dir = tempdir(CLEANUP => 1);
chmod 0755, $sock_dir;
my $t = Receiver->new(
    workers => 2,
    zone    => 'max_secrets=2 pending=1h',
    expect  => qr/was removed or replaced/,
    location => 'asana_hook_enroll $arg_p;',
    http     => 'server { listen 127.0.0.1:APP; location / { return 200; }
        location /answer { return 201 "$http_x_answer"; } }',
    server   => "listen unix:$sock_dir/sock;" . <<'END'
        location /api { asana_hook_api hooks; }
        location /write { asana_hook_api hooks write=on; }
        add_header X-Pid $pid always;
        client_body_timeout 300ms;
        location /quiet { asana_hook hooks; asana_hook_log_level info;
            error_log DIR/quiet.log error;
            proxy_pass http://127.0.0.1:APP; }
        location /real { asana_hook hooks;
            set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP;
            proxy_pass http://127.0.0.1:APP; }
        location /again { asana_hook hooks; error_page 403 /third;
            proxy_pass http://127.0.0.1:APP; }
        location /third { asana_hook hooks; error_page 403 /fourth;
            proxy_pass http://127.0.0.1:APP; }
        location /dry {
            asana_hook hooks; asana_hook_enroll $arg_p; asana_hook_dry_run on;
            proxy_pass http://127.0.0.1:APP;
        }
        location /create { asana_hook_gateway hooks;
            proxy_pass http://127.0.0.1:APP/answer; }
END
);
$t->{server} =~ s/APP/$t->{app_port}/g;
$t->{server} =~ s/DIR/$t->{dir}/g;
$t->{http} =~ s/APP/$t->{app_port}/g;
(my $conf = $t->conf) =~ s/(listen 127.0.0.1:$t->{port});/$1 reuseport;/;
$t->run($conf);

my ($body, $heartbeat) = ('{"events":[{}]}', '{"events":[]}');

sub secret { my ($n) = @_; return "secret-$n-" . 'x' x 40 }

sub events {
    my ($limit) = @_;
    my $r = $t->call('GET',
        '/api/events' . (defined $limit ? "?limit=$limit" : ''));
    $r->{status} == 200 or diag $r->{head};
    return @{ decode_json($r->{body})->{events} };
}

# The events since the last call, the oldest first.

my $known = 0;

sub news {
    my ($n) = @_;
    my @all;
    wait_for(sub { @all = reverse events(1000); @all >= $known + $n });
    my @new = @all[$known .. $#all];
    $known = @all;
    return @new;
}

sub shake {
    my ($path, $n, @lines) = @_;
    return raw($path, join("\r\n", 'X-Hook-Secret: ' . secret($n), @lines),
        '');
}

sub delivery {
    my ($path, $n, $text, @lines) = @_;
    return raw($path, join("\r\n",
        'X-Hook-Signature: ' . sign(secret($n), $text), @lines), $text);
}

is_deeply [events()], [], 'nothing yet';
is $t->call('GET', '/api/events')->{body}, qq({"events":[]}\n), 'in JSON';

# what is a success, or no decision

for my $request (
    shake('/a?p=first', 1), shake('/a?p=first', 1), shake('/p?p=confirm', 3),
    shake('/dry/a?p=first', 1), shake('/dry/p?p=confirm', 3),
    delivery('/a', 1, $body), delivery('/a', 1, $heartbeat),
    delivery('/p', 3, $heartbeat), delivery('/dry/p', 3, $heartbeat)
    )
{
    is(($t->many($request))[0]{status}, 200, 'a success');
}
$t->call($_, '/a') for qw(GET HEAD OPTIONS);
$t->call('POST', '/api/events');
$t->call('GET',  '/api/nosuch');
is_deeply [news(0)], [], 'is no event, nor is what is not judged';

# [word, reason, key, secret, request], each once

my $active = 'its key already has an active secret; give each webhook a URL of '
    . 'its own, wait until the old secret is inactive, revoke it by '
    . '"asana_hook_api", or set "asana_hook_enroll" to "open" or "confirm"';
my $off = '"asana_hook_enroll" is "off" here; set it to "first" while webhooks '
    . 'are created';
my $long  = '/' . 'l' x 481;
my $cut   = 477 - length('127.0.0.1')
    - length 'its key is empty or longer than 480 bytes';
my @cases = (
    ['REFUSED', $active, '/a', 2,
        shake('/a?p=first', 2)],
    ['REFUSED', $off, '/b', 2, shake('/b?p=off', 2)],
    ['REFUSED', $off, '/dry/b', 2, shake('/dry/b?p=off', 2)],
    ['MALFORMED', '"X-Hook-Secret" is not 16 to 255 visible ASCII characters',
        '/a', undef, raw('/a', 'X-Hook-Secret: short', '')],
    ['MALFORMED', 'it carries "X-Hook-Secret" more than once', '/a', undef,
        shake('/a', 1, 'X-Hook-Secret: b')],
    ['MALFORMED', '"X-Hook-Signature" is repeated or not 64 hex digits', '/a',
        undef, raw('/a', 'X-Hook-Signature: 1', $body)],
    ['UNSIGNED', 'it has no "X-Hook-Signature"', '/a', undef,
        raw('/a', 'X: y', $body)],
    ['UNKNOWN', 'no secret is held for its key', '/none', undef,
        delivery('/none', 1, $body)],
    ['INVALID', 'no secret of its key explains its signature', '/a', undef,
        delivery('/a', 2, $body)],
    ['PENDING', 'its secret is not confirmed yet; confirm it by '
        . '"asana_hook_api"', '/p', 3, delivery('/p', 3, $body)],
    ['UNSIGNED_DRY_RUN', 'it has no "X-Hook-Signature"', '/dry/a', undef,
        raw('/dry/a', 'X: y', $body)],
    ['MALFORMED_DRY_RUN', '"X-Hook-Signature" is repeated or not 64 hex '
        . 'digits', '/dry/a', undef, raw('/dry/a', 'X-Hook-Signature: 1', '')],
    ['UNKNOWN_DRY_RUN', 'no secret is held for its key', '/dry/no', undef,
        delivery('/dry/no', 1, $body)],
    ['INVALID_DRY_RUN', 'no secret of its key explains its signature',
        '/dry/a', undef, delivery('/dry/a', 2, $body)],
    ['PENDING_DRY_RUN', 'its secret is not confirmed yet; confirm it by '
        . '"asana_hook_api"', '/dry/p', 3, delivery('/dry/p', 3, $body)],
    ['UNSIGNED', 'it has no "X-Hook-Signature"', '/quiet', undef,
        raw('/quiet', 'X: y', $body)],
    ['UNSIGNED', 'it has no "X-Hook-Signature"', '/again', undef,
        raw('/again', 'X: y', $body)],
    ['UNKNOWN', 'its key has a control character', "/a\n<b>", undef,
        delivery('/a%0A<b>', 1, $body)],
    ['UNSIGNED', 'it has no "X-Hook-Signature"', '/<script>"\\', undef,
        raw('/%3Cscript%3E%22%5C', 'X: y', $body)],
    ['UNSIGNED', 'it has no "X-Hook-Signature"', "/\x{fffd}a\x{fffd}", undef,
        raw('/%FFa%C3', 'X: y', $body)],
    ['UNKNOWN', 'its key is empty or longer than 480 bytes',
        substr("localhost$long", 9, $cut - 9), undef,
        delivery($long, 1, $body)]
);

for my $case (@cases) {
    my ($word, $reason, $key, $n, $request) = @$case;
    my ($r) = $t->many($request);
    my @new = news(1);
    is scalar(@new), 1, "$word: an event" or diag explain \@new;
    my $e = $new[0];
    like delete $e->{time}, qr/^20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'its time';
    my $ref = delete $e->{ref};
    is_deeply $e, {
        word    => $word,
        reason  => $reason,
        address => '127.0.0.1',
        id      => defined $n ? secret_id(secret($n)) : undef,
        key     => "localhost$key",
        cut     => $reason =~ /480/ ? JSON::PP::true : JSON::PP::false
        },
        "$word: what it tells"
        or diag explain $e;
    my ($path) = $request =~ /^POST ([^ ?]+)/;
    $path =~ s/%(..)/chr hex $1/ge;
    $path = substr $path, 0, $cut - 9 if $e->{cut};
    $ref =~ s/%(..)/chr hex $1/ge;
    is $ref, "localhost$path", 'and its exact key';
}
unlike $t->slurp('quiet.log'), qr/rejected/, 'also where the log hides it';

# a body that does not come, a client that leaves, one of a unix socket

my $half = substr delivery('/a', 1, $body), 0, -2;
for my $leaves (0, 1) {
    my $s = $t->connection;
    request($s, $half);
    close $s if $leaves;
    my @new = news(1);
    is_deeply [map {"$_->{word} $_->{key} $_->{reason}"} @new],
        ['ABORTED localhost/a its client left, or its body did not come whole'],
        $leaves ? 'a client that leaves' : 'a body that is too slow';
}
my $s = IO::Socket::UNIX->new(Peer => "$sock_dir/sock");
request($s, raw('/a', 'X: y', ''));
is response($s)->{status}, 403, 'by a unix socket';
is_deeply [map {"$_->{word} $_->{address}"} news(1)], ['UNSIGNED unix:'],
    'the address';
is(($t->many(shake('/real', 1)))[0]{status}, 200, 'behind a proxy');
for my $ip ('192.0.2.7', '2001:db8::7') {
    $s = $t->connection;
    request($s, substr delivery('/real', 1, $body, "X-Real-IP: $ip"), 0, -2);
    close $s;
    is_deeply [map {"$_->{word} $_->{address}"} news(1)], ["ABORTED $ip"],
        'the address that realip tells';
}

# the gateway

sub create {
    my ($answer, @lines) = @_;
    return $t->call('POST', '/create', ["X-Answer: $answer", @lines], '')
        ->{status};
}

sub member { my ($n) = @_; return '{"X-Hook-Secret":"' . secret($n) . '"}' }

sub told {
    my ($name, @want) = @_;
    my @new = news(1);
    is_deeply [map { join ' ', map { defined $_ ? $_ : '-' }
            @$_{qw(word key id reason)} } @new], [join ' ', @want], $name
        or diag explain \@new;
    return;
}

is create(member(3)), 201, 'a create call';
is create('{}'), 201, 'an answer without a secret';
told('UNREADABLE', 'UNREADABLE - - it is no JSON object with one member '
    . '"X-Hook-Secret" of 16 to 255 characters; is the upstream Asana\'s API?');
is create(member(9)), 201, 'a secret that did not come';
told('UNMATCHED', 'UNMATCHED -', secret_id(secret(9)),
    'the secret of a created webhook never came to the zone');
is(($t->many(shake('/full?p=confirm', 4)))[0]{status}, 200, 'a pending one');
for my $n (5, 6) {
    is $t->call('PUT', '/write/hooks?key=localhost/full',
        ['X-Hook-Secret: ' . secret($n)])->{status}, 201, 'others come';
}
is create(member(4)), 201, 'now it has no room';
told('REFUSED', 'REFUSED localhost/full', secret_id(secret(4)),
    'its key has as many active secrets as "max_secrets" allows');
is create('{}', 'Sec-Fetch-Site: cross-site'), 403, 'a browser';
told('REFUSED', 'REFUSED - - a browser sends it from another site');

# the store is gone

rename "$t->{dir}/state", "$t->{dir}/away" or die $!;
is(($t->many(shake('/fails?p=first', 1)))[0]{status}, 503, 'no store');
told('ERROR', 'ERROR localhost/fails', secret_id(secret(1)),
    'a failure of the server; the error log names it');
is create(member(5)), 201, 'a secret that cannot be confirmed';
told('ERROR', 'ERROR -', secret_id(secret(5)),
    'the secret of a created webhook could not be confirmed');
rename "$t->{dir}/away", "$t->{dir}/state" or die $!;

# the ring

my @r = $t->many(map { raw("/n/$_", 'X: y', '') } 1 .. 300);
my %pid;
$pid{$_}++ for map { $_->{head} =~ /^X-Pid: (\d+)/m } @r;
is scalar(keys %pid), 2, 'over two workers';

# many() has 32 requests under way at once

sub paths {
    my @events = @_;
    return map { $_->{key} =~ m{/n/(\d+)$} } @events;
}

my @all = events(1000);
is scalar(@all), 128, '128 events for a zone of 1m';
is_deeply [sort { $a <=> $b } paths(@all[0 .. 11])], [289 .. 300],
    'the newest ones first';
is scalar(events()),  100, 'without a limit 100';
is scalar(events(3)), 3,   'with a limit as many';
is_deeply [events(3)], [@all[0 .. 2]], 'the newest ones';
my $count = () = events(1);
is $count, 1, 'one';

# reloads

ok $t->reload, 'a reload';
is_deeply [events(1000)], \@all, 'keeps them';
for my $case (['2m', 256], ['32k', 4], ['1m', 128]) {
    my ($size, $most) = @$case;
    my @before = events(1000);
    (my $other = $conf) =~ s/zone=hooks:1m/zone=hooks:$size/;
    ok $t->reload($other), "a zone of $size";
    @before = @before[0 .. $most - 1] if @before > $most;
    is_deeply [events(1000)], \@before, 'keeps what has room';
    $t->many(map { raw("/n/$_", 'X: y', '') } 1 .. 300);
    @all = events(1000);
    is scalar(@all), $most, "and has room for $most";
}

# the call

for my $args ('limit=0', 'limit=1001', 'limit=-1', 'limit=x', 'limit=', 'x=1',
    'limit=1&limit=1', 'key=a', 'limit')
{
    my $r = $t->call('GET', "/api/events?$args");
    is $r->{status}, 400, "?$args: 400";
    ok decode_json($r->{body})->{error}, 'an error';
}
is $t->call('POST', '/api/events')->{status}, 405, 'POST: 405';
is $t->call('HEAD', '/api/events')->{status}, 200, 'HEAD';
is $t->call('GET', '/api/events/x')->{status}, 404, 'a longer path: 404';
like $t->call('GET', '/api/events')->{head},
    qr{^Content-Type: application/json\r$}m, 'JSON';
$t->secrecy(map { secret($_) } 1 .. 9);
unlike $t->call('GET', '/api/events?limit=1000')->{body},
    qr/secret-\d|[0-9a-f]{64}/, 'no secret, no signature';
$t->end;

# workers are killed while they write

$t = Receiver->new(
    workers => 2,
    level   => 'alert',
    expect  => qr/exited on signal 9|was locked by/,
    server  => 'location /api { asana_hook_api hooks; }'
);
($conf = $t->conf) =~ s/(listen 127.0.0.1:$t->{port});/$1 reuseport;/;
$t->run($conf);

my @flood = map {
    my $pid = fork;
    die $! unless defined $pid;
    if (!$pid) {
        local $SIG{PIPE} = 'IGNORE';
        local $SIG{__WARN__} = sub { };
        my $n = 0;
        while (1) {
            my $s = IO::Socket::INET->new(
                PeerAddr => '127.0.0.1',
                PeerPort => $t->{port}
            ) or next;
            while (1) {
                my $text = chr(ord('a') + ++$n % 26) x (1 + $n % 200);
                request($s, join '', (raw("/$text", 'X: y', '')) x 20);
                last if !response($s)->{status};
            }
        }
        POSIX::_exit(0);
    }
    $pid;
} 1 .. 2;

sub broken {
    return grep {
        $_->{word} ne 'UNSIGNED'
            || $_->{reason} ne 'it has no "X-Hook-Signature"'
            || $_->{address} ne '127.0.0.1'
            || $_->{key} !~ m{^localhost/(.)\1*$}
            || $_->{ref} ne $_->{key} =~ s{/}{%2F}r
    } events(1000);
}

wait_for(sub { events(1000) == 128 });
my ($killed, @broken) = (0);
for (1 .. 30) {
    my ($worker) = $t->workers;
    kill 'KILL', $worker or next;
    $killed++;
    wait_for(sub { Receiver::gone($worker) && $t->workers == 2 });
    my $r = wait_for(sub {
        my $got = $t->call('GET', '/api/events?limit=1000');
        $got->{status} == 200 && $got;
    });
    push @broken, broken() if $r;
}
is $killed, 30, 'workers are killed';
is_deeply \@broken, [], 'no event is broken';
kill 'KILL', @flood;
waitpid $_, 0 for @flood;
cmp_ok scalar(events(1000)), '>=', 120, 'and none but theirs is lost';
$t->end;

done_testing;
