# Tests for asana_hook_gateway: the gid of a webhook, and webhooks that are
# deleted through it.

use strict;
use warnings;

use lib 't/lib';

use IO::Select;
use IO::Socket::INET;
use JSON::PP qw(decode_json);
use POSIX ();
use Test::More;

use Receiver qw(port request response secret_id wait_for);
use Shim;

my $count = 0;
sub secret { return sprintf 'secret-%04d-%s', ++$count, 'g' x 40 }

# Asana: a POST makes the handshake and creates, a DELETE is answered as its
# X-Case says.

my $asana = port();
my $nginx = port();

sub answer {
    my ($status, $body, @headers) = @_;
    return join "\r\n", "HTTP/1.1 $status", 'X-Asana: yes', @headers,
        'Content-Length: ' . length $body, '', $body;
}

sub created {
    my ($gid, $secret) = @_;
    return qq({"data":{"gid":$gid},"X-Hook-Secret":"$secret"});
}

my $empty = '{"data":{}}';

# [name, word, what is sent, in pieces]

my @cases = (
    ['plain', 'REVOKED', answer('200 OK', $empty)],
    ['bytes', 'REVOKED', split //, answer('200 OK', $empty)],
    ['no body', 'REVOKED', answer('200 OK', '')],
    ['not JSON', 'REVOKED', answer('200 OK', 'gone')],
    ['encoded', 'REVOKED', answer('200 OK', 'x', 'Content-Encoding: gzip')],
    ['chunked', 'REVOKED', "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
        . "\r\n", "3\r\nabc\r\n", "1\r\nd\r\n", "0\r\n\r\n"],
    ['to close', 'REVOKED', "HTTP/1.0 200 OK\r\n\r\n", $empty],
    ['64k', 'REVOKED', answer('200 OK', 'x' x 65536)],
    ['64k and one', 'UNREADABLE', answer('200 OK', 'x' x 65537)],
    ['cut short', 'UNREADABLE', substr answer('200 OK', $empty), 0, -1],
    ['no answer', ''],
    ['half a head', '', 'HTTP/1.1 200 OK'],
    (map { [$_, '', answer($_, $empty)] } '201 Created', '202 Accepted',
        '400 Bad Request', '401 Unauthorized', '403 Forbidden',
        '404 Not Found', '410 Gone', '429 Too Many', '500 Oops'),
    ['204 No Content', '', "HTTP/1.1 204 No Content\r\n\r\n"],
);
my %case = map { $_->[0] =~ s/\W/_/gr => $_ } @cases;

my $listen = IO::Socket::INET->new(
    LocalAddr => '127.0.0.1',
    LocalPort => $asana,
    Listen    => 128,
    ReuseAddr => 1
) or die "listen: $!";
my $pid = fork;
die "fork: $!" unless defined $pid;
serve() if !$pid;
close $listen;

sub serve {
    local $SIG{PIPE} = 'IGNORE';
    while (1) {
        my $c = $listen->accept or next;
        $c->autoflush(1);
        my $raw = Receiver::read_request($c);
        my ($port, $target, $secret, $gid)
            = $raw =~ /port=(\d+)&target=(\S+)&secret=(\S+)&gid=(\S*)/;
        if ($raw =~ /^DELETE/) {
            my ($name) = $raw =~ /^X-Case: (\w+)/m;
            my (undef, undef, @pieces) = @{ $case{$name || 'plain'} };
            print {$c} $_ for @pieces;
        } elsif ($target) {
            my $s = IO::Socket::INET->new("127.0.0.1:$port") or next;
            print {$s} "POST $target HTTP/1.0\r\nHost: localhost\r\n"
                . "X-Hook-Secret: $secret\r\n\r\n";
            my $got = join '', <$s>;
            print {$c} $got =~ /^X-Hook-Secret: \Q$secret\E\r$/m
                ? answer('201 Created', created($gid, $secret))
                : answer('400 Bad Request', '{}');
        } else {
            print {$c} answer('200 OK', $raw);
        }
        close $c;
    }
    return;
}

my $log = 'log_format gid "$request_method $uri $status [$asana_hook_status] '
    . '[$asana_hook_webhook] [$asana_hook_secret_id]"; access_log DIR/gid gid;';

sub receiver {
    my (%opt) = @_;
    my $t = Receiver->new(
        location => 'asana_hook_enroll $arg_p;',
        %opt,
        server => "location /webhooks { asana_hook_gateway hooks; proxy_pass "
            . "http://127.0.0.1:$asana; } location /plain/ { proxy_pass "
            . "http://127.0.0.1:$asana/webhooks/; } "
            . 'location /api { asana_hook_api hooks write=on; } '
            . ($opt{server} || '')
    );
    $t->{http} .= $log =~ s/DIR/$t->{dir}/r;
    return $t->app;
}

my $t = receiver();
my $shim = Shim::works() && Shim->new($t);
$t->{server} .= ' location = /moved { asana_hook hooks; try_files /no @app; }
    location @app { proxy_pass http://127.0.0.1:' . $t->{app_port} . '; }';
$t->run;

sub create {
    my ($target, $secret, $gid, $from) = @_;
    my ($to) = $target =~ s/^(\d+)// ? $1 : ($from || $t)->{port};
    return ($from || $t)->call('POST', '/webhooks', [],
        "port=$to&target=$target&secret=$secret&gid=$gid");
}

sub destroy {
    my ($gid, $case, $uri) = @_;
    $case =~ s/\W/_/g if $case;
    return $t->call('DELETE', ($uri || '/webhooks') . "/$gid",
        [$case ? "X-Case: $case" : ()], '');
}

# the last line of the log, when there are that many

my $lines = 0;

sub logged {
    my ($n) = @_;
    $lines += $n;
    my @all;
    ok wait_for(sub { (@all = split /\n/, $t->slurp('gid')) >= $lines }),
        'logged';
    return $all[$lines - 1];
}

sub hook {
    my ($path) = @_;
    my $r = $t->call('GET', "/api/hooks?key=localhost$path");
    $lines++;
    return $r->{status} == 200 ? decode_json($r->{body})->{secrets} : [];
}

sub verifies {
    my ($path, $secret, $host) = @_;
    return ($host || $t)->deliver($path, $secret, 'event')->{status};
}

# the gid of a create call, where it is shown

my $secret = secret();
is create('/a?p=first', $secret, '"1200"')->{status}, 201, 'created';
is logged(2), 'POST /webhooks 201 [CONFIRMED] [1200] [' . secret_id($secret)
    . ']', 'the create call names it';
is hook('/a')->[0]{webhook}, '1200', 'so does the API';
is verifies('/a', $secret), 200, 'a delivery';
is logged(1), 'POST /a 200 [VERIFIED] [1200] [' . secret_id($secret) . ']',
    'names it as well';
is verifies('/a', secret()), 403, 'a forged one';
like logged(1), qr/\[INVALID\] \[-\] \[-\]$/, 'does not';
is create('/moved?p=first', $secret = secret(), '"12"')->{status}, 201,
    'a location that leads to another';
is verifies('/moved', $secret), 200, 'a delivery';
like logged(3), qr/\[VERIFIED\] \[12\]/, 'names it behind the redirect';

# what is no gid, and where it stands

for my $case (
    ['"' . '7' x 32 . '"', '7' x 32],
    ['"7","x":{"gid":"8"}', '7'],
    ['"\u0037"', '7'],
    map { [$_, undef] } '7', 'null', '""', '"' . '7' x 33 . '"', '"7a"',
    '"-7"', '"7","gid":"8"', '["7"]', '{"gid":"7"}', '"7\n"'
) {
    my ($gid, $want) = @$case;
    my $path = '/gid/' . ++$count;
    is create("$path?p=confirm", secret(), $gid)->{status}, 201, "gid $gid";
    is hook($path)->[0]{webhook}, $want, 'as the API says';
    is hook($path)->[0]{state}, 'active', 'and active';
    $lines += 2;
}

# answers to DELETE, which pass unchanged

sub bare {
    my ($r) = @_;
    my $head = join "\n", grep { !/^(?:Date|Server|Connection):/ }
        split /\r\n/, $r->{head};
    my $body = $r->{body};
    if ($head =~ /chunked/) {
        1 while $body =~ s/(?:^|\G)([0-9a-f]+)\r\n(.*?)\r\n/$2/s;
    }
    return "$head\n\n$body";
}

for my $case (@cases) {
    my ($name, $word) = @$case;
    my ($path, $gid, $one) = ('/case/' . ++$count, 5_000_000 + $count, secret());
    create("$path?p=first", $one, qq("$gid"));
    my $plain = destroy($gid, $name, '/plain');
    my $got = destroy($gid, $name);
    is $got->{status}, $plain->{status}, "$name: $plain->{status}";
    is bare($got), bare($plain), 'unchanged' if $name ne 'chunked';
    my $want = $word || '-';
    like logged(4), qr/^DELETE \S+ \d+ \[\Q$want\E\] \[$gid\]/, $want;
    is verifies($path, $one), $word eq 'REVOKED' ? 403 : 200,
        $word eq 'REVOKED' ? 'revoked' : 'untouched';
    $lines++;
}
like $t->slurp('error.log'),
    qr/answer to a DELETE call cannot be read by the zone "hooks": it was cut/,
    'the log says what is wrong';

# two webhooks on one URL; one under two keys; one that is not known

my ($first, $second) = (secret(), secret());
create('/two?p=open', $first, '"21"');
create('/two?p=open', $second, '"22"');
is destroy(21)->{status}, 200, 'one of two is deleted';
is verifies('/two', $first), 403, 'its secret is revoked';
is verifies('/two', $second), 200, 'the other one stays';
$t->handshake("/both/$_?p=confirm", $first) for 1, 2;
create('/both/1?p=confirm', $first, '"23"');
is verifies("/both/$_", $first), 200, "under key $_" for 1, 2;
is destroy(23)->{status}, 200, 'it is deleted';
is verifies("/both/$_", $first), 403, "revoked under key $_" for 1, 2;
my $third = secret();
$t->handshake("/both/$_?p=confirm", $third) for 1, 2;
create('/both/1?p=confirm', $third, '"28"');
is verifies("/both/$_", $third), 200, "another one under key $_" for 1, 2;
is destroy(28)->{status}, 200, 'it is deleted';
chmod 0, "$t->{dir}/state/data.mdb" or die $!;
ok $t->reload, 'a store that cannot be read from now on';
is verifies("/both/$_", $third), 503, "not known under key $_" for 1, 2;
chmod 0600, "$t->{dir}/state/data.mdb" or die $!;
ok wait_for(sub { verifies('/both/1', $third) == 403 }),
    'revoked, when it can be read';
is destroy(24)->{status}, 200, 'one that is not known';
ok wait_for(sub { $t->slurp('gid') =~ /DELETE \S+ 200 \[UNMATCHED\] \[24\]/ }),
    'UNMATCHED';
like $t->slurp('error.log'), qr/no secret of the deleted webhook "24"/,
    'the log says so';

# what is no such call

for my $call (['DELETE', '/webhooks'], ['DELETE', '/webhooks/'],
    ['DELETE', '/webhooks/22/'], ['DELETE', '/webhooks/22a'],
    ['DELETE', '/webhooks/22/x'], ['DELETE', '/webhooks/?22'],
    ['DELETE', '/webhooks/' . '0' x 31 . '22'],
    ['GET', '/webhooks/22'], ['PUT', '/webhooks/22'], ['HEAD', '/webhooks/22'],
    ['DELETE', '/plain/22'])
{
    my ($method, $uri) = @$call;
    is $t->call($method, $uri, [])->{status}, 200, "$method $uri";
    is verifies('/two', $second), 200, 'revokes nothing';
}
for my $uri ('/webhooks/2%32?opt_pretty=1', '/webhooks/x/../22') {
    $t->call('DELETE', $uri, []);
    is verifies('/two', $second), 403, "$uri revokes";
    create('/two?p=open', $second, '"22"');
}
my $r = $t->call('DELETE', '/webhooks/22', ['Sec-Fetch-Site: cross-site']);
is $r->{status}, 403, 'a browser that another site sends is refused';
is verifies('/two', $second), 200, 'and revokes nothing';

# the client goes before the answer: it may be revoked or not

$second = secret();
create('/left?p=first', $second, '"25"');
for (1 .. 5) {
    my $c = $t->connection;
    request($c, "DELETE /webhooks/25 HTTP/1.1\r\nHost: localhost\r\n"
            . "X-Case: bytes\r\n\r\n");
    close $c;
}
is destroy(25)->{status}, 200, 'clients that leave';
is verifies('/left', $second), 403, 'leave nothing behind';

# create and delete, 100 times

for my $policy (qw(first confirm gateway)) {
    my @bad;
    for my $n (1 .. 100) {
        my $one = secret();
        my @was = (create("/loop/$policy?p=$policy", $one, qq("6$n"))->{status},
            verifies("/loop/$policy", $one), destroy("6$n")->{status},
            verifies("/loop/$policy", $one));
        push @bad, "$n: @was" if "@was" ne '201 200 200 403';
    }
    is "@bad", '', "$policy: create and delete on one URL, 100 times";
    is_deeply hook("/loop/$policy"), [], 'nothing is left';
}

# a slow disk: nothing goes out before it is there; one that fails

SKIP: {
    skip 'no threads, or a sanitizer', 7 if !Receiver::threads() || !$shim;
    $second = secret();
    create('/slow?p=first', $second, '"26"');
    $shim->set(delay_ms => 400);
    my $s = $t->connection;
    request($s, "DELETE /webhooks/26 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    ok !IO::Select->new($s)->can_read(0.3), 'a slow disk: no byte of it';
    is response($s)->{status}, 200, 'then the answer';
    $shim->set;
    is verifies('/slow', $second), 403, 'and it is revoked';

    create('/slow?p=first', $second, '"27"');
    is verifies('/slow', $second), 200, 'another one';
    $shim->set(sync => 5, dsync => 5);
    is destroy(27)->{status}, 200, 'a disk that fails: the answer passes';
    ok wait_for(sub { $t->slurp('gid') =~ /\[ERROR\] \[27\]/ }), 'ERROR';
    like $t->slurp('error.log'),
        qr/\[crit\].*deleted webhook "27" could not be revoked/,
        'the log says what to do';
    $shim->set;
}

like $t->call('GET', '/api/metrics')->{body},
    qr/gateway_requests_total\{zone="hooks",result="revoked"\} 3\d\d\n/,
    'they are counted';
$t->secrecy('g' x 40);
$t->end;

kill 'TERM', $pid;
waitpid $pid, 0;

done_testing;
