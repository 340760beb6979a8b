# Tests for HTTP/2: bodies without a length, early and late DATA frames.

use strict;
use warnings;

use lib 't/lib';

use Test::More;

use Receiver qw(request response sign wait_for);
use HTTP2;

my $t    = Receiver->new(workers => 1);
my $conf = $t->conf;
plan skip_all => 'nginx has no HTTP/2'
    if ($t->nginx('-V'))[1] !~ /http_v2_module/;

$conf =~ s/(listen 127.0.0.1:\d+);/$1 http2;/;
$t->app->run($conf);

my $secret = 'a-secret-of-printable-text-0123456789';
my $body   = '{"events":[{"action":"changed"}]}';
my $mac    = sign($secret, $body);
my (@seen, $h);

sub h2 { return HTTP2->new($t->connection) }

$h = h2();
my $id = $h->headers(1, [':method', 'POST'], [':path', '/a'],
    ['x-hook-secret', $secret]);
my $r = $h->wait($id);
is $r->{status}, 200, 'a handshake over HTTP/2';
is(($t->words)[0], 'HANDSHAKE', 'HANDSHAKE');
$id = $h->headers(1, [':method', 'GET'], [':path', '/a']);
is $h->wait($id)->{status}, 200, 'the connection goes on';
$t->words;
$t->seen;

my $curl = join ' ', 'curl -s -m 10 -i --http2-prior-knowledge -X POST',
    "-H 'X-Hook-Secret: $secret' http://127.0.0.1:$t->{port}/a";
$curl = `$curl`;
like $curl, qr/^HTTP\/2 200/, 'curl: 200';
like $curl, qr/^x-hook-secret: \Q$secret\E\r$/m, 'curl: the same secret';
$t->words;

# [name, length?, frames, pause before DATA, signature, status, word]

for my $case (
    ['one frame',          1, [$body],                       0, $mac, 200],
    ['no length',          0, [$body],                       0, $mac, 200],
    ['late',               1, [$body],                       1, $mac, 200],
    ['late, no length',    0, [$body],                       1, $mac, 200],
    ['pieces',             1, [split /(?<=,|:)/, $body],     1, $mac, 200],
    ['pieces, no length',  0, [split //, $body],             0, $mac, 200],
    ['an empty last one',  0, [$body, ''],                   1, $mac, 200],
    ['another body',       0, [$body, 'x'],                  0, $mac, 403],
    ['a shorter body',     0, [substr $body, 1],             1, $mac, 403],
    ['no body',            0, [''],                          1, $mac, 403],
    ['no signature',       1, [$body],                       0, undef, 403],
    ['no signature, late', 0, [$body],                       1, undef, 403]
    )
{
    my ($name, $length, $frames, $late, $sig, $status) = @$case;
    $h = h2();
    $id = $h->headers(
        0, [':method', 'POST'],
        [':path', '/a'],
        $length ? ['content-length', length join '', @$frames] : (),
        defined $sig ? ['x-hook-signature', $sig] : ()
    );
    $h->settle if $late;
    for my $i (0 .. $#$frames) {
        $h->data($id, $frames->[$i], $i == $#$frames);
        $h->settle if $late && $i < $#$frames;
    }
    is $h->wait($id)->{status}, $status, "$name: $status";
    wait_for(sub { push @seen, $t->seen; @seen }) if $status == 200;
    push @seen, $t->seen;
    is scalar(@seen), $status == 200 ? 1 : 0, 'as the application sees';
    is $seen[0][1], $body, 'with the same bytes' if $status == 200;
    @seen = ();
}

# a GET that has a body, stated or not, early or late, is a delivery

for my $method (qw(GET HEAD OPTIONS)) {
    for my $late (0, 1) {
        for my $length (0, 1) {
            $h = h2();
            $id = $h->headers(0, [':method', $method], [':path', '/a'],
                $length ? ['content-length', 6] : ());
            $h->settle if $late;
            $h->data($id, 'forged', 1);
            is $h->wait($id)->{status}, 403,
                "$method with DATA, length $length, late $late: rejected";
        }
    }
}
is scalar(@seen = $t->seen), 0, 'nothing arrives';

# rejected requests do not wait for their body

$h = h2();
$id = $h->headers(0, [':method', 'POST'], [':path', '/a']);
is $h->wait($id)->{status}, 403, 'unsigned: rejected before DATA';

# streams beside each other; one that is reset proves nothing

$h = h2();
my @ids = map {
    $h->headers(0, [':method', 'POST'], [':path', "/a"],
        ['x-hook-signature', $mac])
} 1 .. 8;
$h->data($_, substr($body, 0, 10), 0) for @ids;
$h->reset(pop @ids);
$h->data($_, substr($body, 10), 1) for reverse @ids;
is join(' ', map { $h->wait($_)->{status} } @ids), '200 ' x 6 . '200',
    'seven streams';
is scalar(@seen = $t->seen), 7, 'arrive';

# handshakes at once on one connection

$h   = h2();
@ids = map {
    $h->headers(1, [':method', 'POST'], [':path', "/h/$_"],
        ['x-hook-secret', "$secret$_"])
} 1 .. 20;
is scalar(grep { $h->wait($_)->{status} == 200 } @ids), 20, '20 handshakes';

# and a connection that is gone before they are answered

$h = h2();
$h->headers(1, [':method', 'POST'], [':path', "/g/$_"],
    ['x-hook-secret', "$secret$_"])
    for 1 .. 20;
$h->close;
$h = h2();
$id = $h->headers(1, [':method', 'GET'], [':path', '/a']);
is $h->wait($id)->{status}, 200, 'the worker lives';

$t->secrecy($secret, $mac);
$t->end;

done_testing;
