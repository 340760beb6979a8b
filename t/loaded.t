# Tests for a store that holds what the module never writes: keys, secrets and
# indexes that somebody loaded into it.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256);
use Test::More;

use Receiver qw(wait_for);

my $secret = 'a-secret-of-printable-text-0123456789';
my $t      = Receiver->new(
    location => 'asana_hook_heartbeat answer;',
    server   => 'location /api { asana_hook_api hooks write=on; }
        location /confirm {
            asana_hook hooks; asana_hook_enroll confirm;
            proxy_pass http://127.0.0.1:APP;
        }
        location = /create {
            asana_hook_register hooks; proxy_pass http://127.0.0.1:APP;
        }'
)->app;
$t->{server} =~ s/APP/$t->{app_port}/g;
$t->run;
my $state   = "$t->{dir}/state";
my @workers = $t->workers;
my $fresh   = 0;

sub load {
    my ($database, $key, $value, @flags) = @_;
    $t->write_file('load', join "\n", 'VERSION=3', 'format=bytevalue',
        "database=$database", 'type=btree', @flags, 'HEADER=END',
        map({ ' ' . unpack 'H*', $_ } $key, $value), "DATA=END\n");
    return system 'mdb_load', '-s', $database, '-f', "$t->{dir}/load", $state;
}

sub record {
    my ($own, $pending) = @_;
    return pack 'a8 Q> Q> C C a*', sha256($own), time - 10, 0, $pending || 0,
        length $own, $own;
}

my $read = 0;

sub news {
    my $text = substr $t->slurp('error.log'), $read;
    $read += length $text;
    return $text;
}

# keys of all others are served as before, by the same worker

sub others {
    my ($what) = @_;
    my $key = '/beside/' . ++$fresh;
    is $t->handshake($key, "$secret$key")->{status}, 200,
        "$what: a handshake of another key";
    is $t->deliver($key, "$secret$key", 'x')->{status}, 200, 'verifies';
    is $t->deliver('/known', "$secret/known", $what)->{status}, 200,
        'the first secret as well';
    is $t->call('DELETE', "/api/hooks?key=localhost$key")->{status}, 204,
        'and another is revoked';
    is join(' ', $t->workers), join(' ', @workers), 'the worker lives';
    return;
}

is $t->handshake('/known', "$secret/known")->{status}, 200, 'a first secret';
is $t->deliver('/known', "$secret/known", 'x')->{status}, 200, 'verifies';

# keys that are longer than any key of a request

for my $length (481, 495, 511) {
    my $key = 'a' x $length;
    is load('secrets', $key, record($secret), 'dupsort=1'), 0,
        "a key of $length bytes";
    news();
    my $r = $t->call('GET', '/api/hooks');
    is $r->{status}, 200, 'a listing';
    like $r->{body}, qr{"localhost/known"}, 'has the others';
    unlike $r->{body}, qr/a{481}/, 'but not that one';
    like news(), qr/\[crit\].*store\ "\Q$state\E"\ has\ a\ key\ of\ $length
        \ bytes.*\ left\ out/x, 'the log says it';
    $t->call($_, "/api/hooks?key=$key", ["X-Hook-Secret: $secret"])
        for qw(GET PUT DELETE);
    $t->call('GET', "/api/hooks?after=$key");
    is $t->call('GET', '/api/hooks?limit=1')->{status}, 200, 'a page of one';
    others("a key of $length bytes");
}

# keys of bytes that no name has

for my $key ("\0", "line\nfeed", "\177", "\xff\xfe", "a\x{1b}[2J") {
    is load('secrets', $key, record($secret), 'dupsort=1'), 0, 'an odd key';
    my $r = $t->call('GET', '/api/hooks');
    is $r->{status}, 200, 'a listing';
    like $r->{body}, qr{"localhost/known"}, 'has the others';
    unlike $r->{body}, qr/[\x00-\x1f\x7f](?!\z)/, 'and nothing raw';
    others('an odd key');
}

# secrets that no handshake brings

for my $length (1, 15) {
    my $key = "localhost/short/$length";
    is load('secrets', $key, record('s' x $length), 'dupsort=1'), 0,
        "a secret of $length bytes";
    ok wait_for(sub {
        is $t->deliver("/short/$length", 's' x $length, 'x')->{status}, 503,
            'verifies nothing';
        like $t->deliver("/short/$length", 's' x $length, 'x')->{head},
            qr/^Retry-After: \d+\r$/m, 'and is to be sent again';
        return news() =~ /\[crit\].*cannot be read: .*backup/;
    }), 'the log says it';
    others("a secret of $length bytes");
}

# a record without its index, and indexes without their records

is load('secrets', 'localhost/bare', record("$secret/bare"), 'dupsort=1'), 0,
    'a secret that is in no index';
is $t->deliver('/bare', "$secret/bare", 'x')->{status}, 200, 'verifies';
others('a secret in no index');
is $t->call('DELETE', '/api/hooks?key=localhost/bare')->{status}, 204,
    'is revoked';
is load('secrets', 'localhost/confirm/bare', record("$secret/bare", 1),
    'dupsort=1'), 0, 'a pending one';
is $t->call('PUT', '/api/hooks?key=localhost/confirm/bare',
    ["X-Hook-Secret: $secret/bare"])->{status}, 200, 'is confirmed';
is $t->deliver('/confirm/bare', "$secret/bare", 'x')->{status}, 200,
    'verifies';

my $id = substr sha256("$secret/gone"), 0, 8;
for my $database (qw(waiting unproven)) {
    is load($database, pack('Q> a8 a*', 1, $id, 'localhost/gone'), ''), 0,
        "an entry of \"$database\" without a record";
    others("a stale entry of \"$database\"");
}
my $pending = "$secret/pending";
$id = substr sha256($pending), 0, 8;
is load('pending', $id . 'localhost/gone', pack 'Q>', 1), 0,
    'an entry of "pending" without a record';
is load('pending', $id . 'localhost/' . 'l' x 490, pack 'Q>', 1), 0,
    'one of a key that is too long';
is $t->handshake('/confirm/real', $pending)->{status}, 200, 'a pending secret';
$t->answer(201, '', qq({"X-Hook-Secret":"$pending"}));
my $r = $t->call('POST', '/create', [], 'x');
is $r->{status}, 201, 'a create call';
$t->answer(200, '', 'app');
is $t->deliver('/confirm/real', $pending, 'x')->{status}, 200,
    'confirms the one that is there';
others('a long key of "pending"');

is join(' ', $t->workers), join(' ', @workers), 'the worker lived throughout';
$t->secrecy($secret);
$t->end;

done_testing;
