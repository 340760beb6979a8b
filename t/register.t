# Tests for asana_hook_gateway: the answers to create calls.

use strict;
use warnings;

use lib 't/lib';

use IO::Compress::Gzip qw(gzip);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Test::More;
use Time::HiRes qw(usleep);

use Receiver qw(port request response secret_id wait_for);

my $count = 0;
sub secret { return sprintf 'secret-%04d-%s', ++$count, 'q' x 40 }

sub json {
    my ($secret) = @_;
    return qq({"data":{"gid":"12","active":false},"X-Hook-Secret":"$secret"});
}

sub by_length {
    my ($body, $status, @headers) = @_;
    return join "\r\n", 'HTTP/1.1 ' . ($status || '201 Created'),
        'X-Upstream: yes', 'Content-Length: ' . length $body, @headers, '',
        $body;
}

sub chunked {
    my @pieces = @_;
    return "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n",
        (map { sprintf "%x\r\n%s\r\n", length, $_ } @pieces), "0\r\n\r\n";
}

sub padded {
    my ($secret, $size) = @_;
    my $text = qq({"X-Hook-Secret":"$secret","pad":");
    return $text . 'x' x ($size - length($text) - 2) . '"}';
}

sub escaped { return join '', map { sprintf '\\u%04x', ord } split //, $_[0] }

sub gzipped { my ($text) = @_; gzip(\$text, \my $out, -Time => 0); return $out }

# what the upstream answers, in pieces, for a secret; and the word for it

my @cases = (
    ['by length', 'CONFIRMED', sub { by_length(json(@_)) }],
    ['bytes', 'CONFIRMED', sub { split //, by_length(json(@_)) }],
    ['chunked', 'CONFIRMED', sub { chunked(json(@_)) }],
    ['chunks of a byte', 'CONFIRMED', sub { chunked(split //, json(@_)) }],
    [
        'to close', 'CONFIRMED',
        sub { "HTTP/1.0 201 Created\r\nX-Upstream: 1\r\n\r\n", json(@_) }
    ],
    ['64k', 'CONFIRMED', sub { by_length(padded(@_, 65536)) }],
    ['64k chunked', 'CONFIRMED',
        sub { chunked(unpack '(a1000)*', padded(@_, 65536)) }],
    ['64k and one', 'UNREADABLE', sub { by_length(padded(@_, 65537)) }],
    ['64k and one chunked', 'UNREADABLE',
        sub { chunked(unpack '(a1000)*', padded(@_, 65537)) }],
    ['300k chunked', 'UNREADABLE',
        sub { chunked(unpack '(a9000)*', padded(@_, 300_000)) }],
    ['escaped', 'CONFIRMED',
        sub {
            by_length('{"' . escaped('X-Hook-Secret') . '": "'
                    . escaped($_[0]) . '"}')
        }],
    ['spaces', 'CONFIRMED',
        sub { by_length(" {\n\t\"X-Hook-Secret\" :\r \"$_[0]\" } \n") }],
    ['all values', 'CONFIRMED',
        sub {
            by_length('{"a":[1,-0.5e+3,true,false,null,[],{}],"b":"\\ud83d'
                    . qq(\\ude00","X-Hook-Secret":"$_[0]"}))
        }],
    ['gzip', 'UNREADABLE',
        sub {
            by_length(gzipped(json(@_)), undef, 'Content-Encoding: gzip')
        }],
    ['not JSON', 'UNREADABLE', sub { by_length("X-Hook-Secret: $_[0]") }],
    ['empty', 'UNREADABLE', sub { by_length('') }],
    ['an array', 'UNREADABLE', sub { by_length('[' . json(@_) . ']') }],
    ['no member', 'UNREADABLE', sub { by_length('{"data":{}}') }],
    ['deeper', 'UNREADABLE', sub { by_length('{"data":' . json(@_) . '}') }],
    ['twice', 'UNREADABLE',
        sub {
            by_length(qq({"X-Hook-Secret":"$_[0]","X-Hook-Secret":"$_[0]"}))
        }],
    ['other case', 'UNREADABLE',
        sub { by_length(qq({"x-hook-secret":"$_[0]"})) }],
    ['in a list', 'UNREADABLE',
        sub { by_length(qq({"X-Hook-Secret":["$_[0]"]})) }],
    ['more behind', 'UNREADABLE', sub { by_length(json(@_) . 'x') }],
    ['a comma too many', 'UNREADABLE',
        sub { by_length(qq({"X-Hook-Secret":"$_[0]",})) }],
    ['a byte cut off', 'UNREADABLE', sub { by_length(substr json(@_), 0, -1) }],
    ['a control character', 'UNREADABLE',
        sub { by_length(qq({"a":"\n","X-Hook-Secret":"$_[0]"})) }],
    ['half a pair', 'UNREADABLE',
        sub { by_length(qq({"a":"\\ud83d","X-Hook-Secret":"$_[0]"})) }],
    ['deep', 'UNREADABLE',
        sub {
            by_length('{"a":' . '[' x 100 . ']' x 100
                    . qq(,"X-Hook-Secret":"$_[0]"}))
        }],
    ['short', 'UNREADABLE', sub { by_length('{"X-Hook-Secret":"short"}') }],
    ['gone', 'UNREADABLE',
        sub {
            my $all = by_length(json(@_));
            substr $all, 0, -5;
        }],
    ['gone in chunks', 'UNREADABLE', sub { (chunked(json(@_), 'x'))[0, 1] }],
    ['gone at once', 'UNREADABLE',
        sub { (by_length(json(@_)) =~ /^(.*?\r\n\r\n)/s)[0] }],
    (map {
        my $status = $_;
        [$status, '-', sub { by_length(json(@_), $status) }]
    } '200 OK', '202 Accepted', '400 Bad Request', '403 Forbidden',
        '500 Internal Server Error'),
    ['204 No Content', '-', sub {"HTTP/1.1 204 No Content\r\n\r\n"}],
);
my %case = map { $_->[0] =~ s/\W/_/gr => $_ } @cases;

my $asana = port();
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

# a child for each connection, which it keeps unless the answer ends with it

sub serve {
    local $SIG{CHLD} = 'IGNORE';
    local $SIG{PIPE} = 'IGNORE';
    while (1) {
        my $c = $listen->accept or next;
        next if fork;
        $c->autoflush(1);
        while (length(my $raw = Receiver::read_request($c))) {
            my ($name, $secret) = $raw =~ /case=(\w+)&secret=(\S+)/;
            if ($raw =~ /^POST \S+stall/) {
                IO::Select->new($c)->can_read(20);
                last;
            }
            my @pieces = $case{$name}[2]->($secret);
            for my $piece (@pieces) {
                print {$c} $piece or last;
                usleep 100 if @pieces < 20;
            }
            last if $name =~ /gone|to_close/;
        }
        POSIX::_exit(0);
    }
    return;
}

my $api = 'location /api { asana_hook_api hooks write=on; }';

sub gateway {
    my ($lines, %opt) = @_;
    my $proxy = "proxy_pass http://asana; proxy_http_version 1.1; "
        . 'proxy_set_header Connection ""; ' . $lines;
    return Receiver->new(
        http => "upstream asana { server 127.0.0.1:$asana; keepalive 8; }",
        server => "location = /create { asana_hook_gateway hooks; $proxy } "
            . "location = /plain { $proxy } $api " . ($opt{server} || ''),
        location => 'asana_hook_enroll confirm;',
        %{ $opt{new} || {} }
    )->app->run;
}

sub bare {
    my ($r) = @_;
    my @lines = grep { !/^(?:Date|Server|Connection|Keep-Alive):/ }
        split /\r\n/, $r->{head};
    return join "\n", @lines, '',
        $r->{head} =~ /chunked/ ? unchunk($r->{body}) : $r->{body};
}

# how the bytes come in chunks is nginx's own affair, and where they end

sub unchunk {
    my ($body) = @_;
    my ($text, $end) = ('', '');
    while ($body =~ s/^([0-9a-f]+)\r\n//) {
        my $n = hex $1;
        $end = $n ? '' : ' and the end';
        $text .= substr $body, 0, $n, '';
        $body =~ s/^\r\n//;
    }
    return $text . $end;
}

sub create {
    my ($t, $name, $secret, $uri) = @_;
    (my $arg = $name) =~ s/\W/_/g;
    return $t->call('POST', ($uri || '/create') . "?case=$arg&secret=$secret",
        [], 'resource=1200');
}

# the word for the last request of a path; "times" is how many there were

sub word {
    my ($t, $uri, $times) = @_;
    my @words;
    wait_for(sub {
        @words = $t->slurp('access.log') =~ /^POST \Q$uri\E \d+ \[(.*?)\]/mg;
        return @words >= $times;
    });
    return $words[-1];
}

sub active {
    my ($t, $uri, $secret) = @_;
    return $t->deliver($uri, $secret, 'event')->{status} == 200 ? 1 : 0;
}

my %ways = (
    'buffered'    => 'proxy_buffering on;',
    'unbuffered'  => 'proxy_buffering off;',
    'in a file'   => 'proxy_buffers 4 4k; proxy_buffer_size 4k; '
        . 'proxy_busy_buffers_size 4k;',
);
for my $way (sort keys %ways) {
    my $t = gateway($ways{$way});
    my $times = 0;
    for my $case (@cases) {
        my ($name, $word) = @$case;
        my $secret = secret();
        my $uri = "/hook/$count";
        $t->handshake($uri, $secret);
        my $plain = create($t, $name, $secret, '/plain');
        my $got = create($t, $name, $secret);
        ok bare($got) eq bare($plain),
            "$way, $name: the answer is unchanged"
            or diag substr(bare($got), 0, 300), ' // ',
            substr(bare($plain), 0, 300);
        is word($t, '/create', ++$times), $word, "$word";
        is active($t, $uri, $secret), $word eq 'CONFIRMED' ? 1 : 0,
            $word eq 'CONFIRMED' ? 'active' : 'still pending';
    }
    like $t->slurp('error.log'), qr/create call cannot be read.*64k/,
        'the log says what is wrong';
    $t->end;
}

# what is no create call is no business of the gateway

my $t = gateway('');
my $secret = secret();
$t->handshake('/a', $secret);
for my $method (qw(GET PUT DELETE)) {
    my $r = $t->call($method, "/create?case=by_length&secret=$secret", []);
    is $r->{status}, 201, $method;
}
is active($t, '/a', $secret), 0, 'other methods confirm nothing';

# one secret under two keys; a stranger's beside it; one that nobody brought

my $stranger = secret();
$t->handshake('/b', $secret);
$t->handshake('/b', $stranger);
is create($t, 'chunked', $secret)->{status}, 201, 'created';
is active($t, $_, $secret), 1, "active under $_" for '/a', '/b';
is active($t, '/b', $stranger), 0, 'a planted one is not';
is create($t, 'chunked', secret())->{status}, 201, 'another receiver';
is word($t, '/create', 2), 'UNMATCHED', 'UNMATCHED';
like $t->slurp('error.log'), qr/never came to the zone "hooks"/, 'the log';
is create($t, '403 Forbidden', $secret)->{status}, 403, 'a repeated create';
is active($t, '/a', $secret), 1, 'takes nothing away';

# keep-alive: several on one connection

my $s = $t->connection;
for my $n (1 .. 5) {
    my $one = secret();
    $t->handshake("/keep/$n", $one);
    request($s, "POST /create?case=bytes&secret=$one HTTP/1.1\r\n"
            . "Host: localhost\r\nContent-Length: 1\r\n\r\nx");
    is response($s)->{body}, json($one), "create $n on one connection";
    is active($t, "/keep/$n", $one), 1, 'active';
}

# fifty at once

my @many = map { secret() } 1 .. 50;
$t->handshake("/many/$_", $many[$_]) for 0 .. 49;
my @s = map { $t->connection } @many;
request($s[$_], "POST /create?case=chunked&secret=$many[$_] HTTP/1.1\r\n"
        . "Host: localhost\r\nContent-Length: 1\r\n\r\nx") for 0 .. 49;
is scalar(grep { response($_)->{status} == 201 } @s), 50, '50 at once';
is scalar(grep { active($t, "/many/$_", $many[$_]) } 0 .. 49), 50,
    'all are active when they are answered';

# the client goes, and its connection to Asana with it

my $gone = secret();
$t->handshake('/gone', $gone);
for (1 .. 20) {
    my $c = $t->connection;
    request($c, "POST /create?case=bytes&secret=$gone HTTP/1.1\r\n"
            . "Host: localhost\r\nContent-Length: 1\r\n\r\nx");
    usleep 500 * $_;
    close $c;
}
is $t->call('GET', '/api/')->{status}, 200, 'clients that go leave nothing';

# a reload in the middle of an answer

my $late = secret();
$t->handshake('/late', $late);
$s = $t->connection;
request($s, "POST /create?case=bytes&secret=$late HTTP/1.1\r\n"
        . "Host: localhost\r\nContent-Length: 1\r\n\r\nx");
$t->reload;
is response($s)->{status}, 201, 'a reload in the middle';
is active($t, '/late', $late), 1, 'active';
$t->secrecy($secret, $late, @many);
$t->end;

# accepted at once by another policy; past its time

$t = gateway('', new => {
    zone     => 'pending=1s',
    location => 'asana_hook_enroll $arg_p;'
});
$secret = secret();
$t->handshake('/a?p=first', $secret);
create($t, 'by length', $secret);
is word($t, '/create', 1), 'CONFIRMED', 'enroll first: CONFIRMED';
my $old = secret();
$t->handshake('/old?p=confirm', $old);
ok wait_for(sub { $t->call('GET', '/api/hooks?key=localhost%2Fold')->{status}
            == 404 }), 'a pending one expires';
create($t, 'by length', $old);
is word($t, '/create', 2), 'UNMATCHED', 'and cannot be confirmed any more';
my $calls = 2;
ok wait_for(sub {
    create($t, 'by length', $secret);
    return word($t, '/create', ++$calls) eq 'UNMATCHED';
}), 'nor is one that was accepted that long ago';
is active($t, '/old', $old), 0, 'nor does it verify';
$t->end;

# asana_hook_enroll gateway: only while a create call is in flight

$t = gateway('', new => { location => 'asana_hook_enroll gateway;',
        workers => 2, expect => qr/signal 9/ });
sub commits {
    return $t->call('GET', '/api/')->{body} =~ /"commits":(\d+)/ ? $1 : '?';
}
$secret = secret();
my $before = commits();
is $t->handshake('/r', $secret)->{status}, 403, 'no create call: refused';
is word($t, '/r', 1), 'REFUSED', 'REFUSED';
is commits(), $before, 'without the disk';
like $t->slurp('error.log'), qr/no create call is in flight/, 'the log';

sub stall {
    my $c = $t->connection;
    request($c, "POST /create?stall HTTP/1.1\r\nHost: localhost\r\n"
            . "Content-Length: 1\r\n\r\nx");
    return $c;
}
sub taken { return $t->handshake('/r/' . shift, secret())->{status} == 200 }

my $c = stall();
ok wait_for(sub { taken('during') }), 'accepted during a create call';
$t->handshake('/r', $secret);
close $c;
ok wait_for(sub { !taken('after') }), 'refused after it';
is $t->handshake('/r', $secret)->{status}, 200, 'what is held is acknowledged';
create($t, 'by length', $secret);
is active($t, '/r', $secret), 1, 'and confirmed by the create call';

$c = stall();
ok wait_for(sub { taken('reload') }), 'during a create call';
kill 'HUP', $t->master;
ok wait_for(sub { $t->workers > 2 }), 'a worker of before lives on';
ok taken('reloaded'), 'and its create call counts';
close $c;
ok wait_for(sub { !taken('end') }), 'to its end';
$t->end;

kill 'TERM', $pid;
waitpid $pid, 0;

done_testing;
