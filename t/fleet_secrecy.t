# Tests for what others can read and write: no secret is in a log, a file, a
# dump or a query, and what somebody without the key has written counts for
# nothing.

use strict;
use warnings;

use lib 't/lib';

use Digest::SHA qw(sha256_hex);
use MIME::Base64 qw(encode_base64);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep);

use Fleet;
use Postgres;
use Receiver qw(wait_for);

Fleet::usable();

my $pg    = Postgres->new;
my @hosts = Fleet::hosts($pg, 2);
my ($one, $two) = @hosts;
my $n = 0;

# queries of all connections, over and over, while the secrets come and go

my $out = "$pg->{dir}/activity";
my $spy = fork;
die "fork: $!" if !defined $spy;
if (!$spy) {
    setpgrp;
    open STDOUT, '>', $out or POSIX::_exit(1);
    exec 'sh', '-c', 'while :; do echo '
        . '"SELECT query FROM pg_stat_activity;"; sleep 0.01; done | '
        . "psql -XAtq -U postgres -h 127.0.0.1 -p $pg->{port} hooks"
        or POSIX::_exit(127);
}

for my $policy (qw(first open confirm)) {
    for (1 .. 10) {
        my ($key, $secret) = ("/$policy/" . ++$n, Fleet::secret());
        Fleet::ask([$one, Fleet::handshake("$key?p=$policy", $secret)]);
        Fleet::ask([$two, Fleet::event($key, $secret)]);
        Fleet::ask([$two, Fleet::create($secret, 1000 + $n)])
            if $policy eq 'confirm';
        Fleet::ask([$one, Fleet::heartbeat($key, $secret)]);
        Fleet::ask([$two, Fleet::put($key, Fleet::secret())]);
        Fleet::ask([$one, Fleet::revoke($key, $secret)]) if $n % 2;
    }
}

sub rows { return $pg->sql('SELECT count(*) FROM asana_hook.secrets') }

cmp_ok rows(), '>=', 40, 'secrets are stored';
wait_for(sub { -s $out });
kill '-TERM', $spy;
waitpid $spy, 0;

# Text, its digits in hex, and both of base64 as far as it does not depend on
# what stands beside it; the key of encryption and its bytes.

my $text  = 'plain-secret-0000000000';
my $key   = "\1" x 32;
my @forms = ($text, unpack('H*', $text), unpack('H*', $key), $key,
    map { substr encode_base64(substr($text, $_, 18), ''), 0, 24 } 0 .. 2);

sub shown {
    my ($what) = @_;
    return grep { index(${$what}, $_) >= 0 } @forms;
}

sub slurp {
    my $all = '';
    for my $file (@_) {
        open my $fh, '<:raw', $file or next;
        local $/ = undef;
        $all .= <$fh>;
        close $fh;
    }
    return \$all;
}

$pg->sql('CHECKPOINT');
my $wal  = slurp(glob "$pg->{dir}/pg/data/pg_wal/0*");
my $data = slurp(glob "$pg->{dir}/pg/data/base/*/*");
my $dump = "$pg->{dir}/dump";
is system("pg_dump -U postgres -h 127.0.0.1 -p $pg->{port} hooks >$dump"), 0,
    'a dump';
my %places = (
    'the log of PostgreSQL' => [\$pg->log,   'asana_hook.secrets'],
    'pg_stat_activity'      => [slurp($out), 'asana_hook.'],
    'a dump'                => [slurp($dump), 'asana_hook.secrets'],
    'WAL'                   => [$wal,  'localhost/first/1'],
    'tables'                => [$data, 'localhost/first/1'],
    map { +"the logs of host $_->{port}" => [
        slurp("$_->{dir}/error.log", "$_->{dir}/access.log"), '/first/1'] }
        @hosts
);
for my $where (sort keys %places) {
    my ($what, $known) = @{ $places{$where} };
    cmp_ok index(${$what}, $known), '>=', 0, "$where: it was looked at";
    is scalar(shown($what)), 0, 'and shows no secret and no key';
}

# Somebody writes into the tables: no host believes it, and a log tells.

sub set {
    my ($what, $key) = @_;
    return $pg->sql("UPDATE asana_hook.secrets SET $what "
            . "WHERE key = 'localhost$key'");
}

my @changes = (
    ['a bit flipped', 'sealed = set_bit(sealed, 300, 1 - get_bit(sealed, 300))'],
    ['a row cut', 'sealed = substring(sealed FROM 1 FOR 45)'],
    ['a row of zeros', q{sealed = decode(repeat('00', 60), 'hex')}],
    ['a row moved', q{key = key || '/moved'}, '/moved'],
    ['an id changed', q{id = '12345678'}],
    ['the seal of another key', q{sealed = (SELECT sealed FROM
        asana_hook.secrets WHERE key = 'localhost/first/2' LIMIT 1)}],
    ['a pending one confirmed', 'pending = false', '', 'confirm'],
    ['a confirmed one pending', 'pending = true']
);
for (@changes) {
    my ($what, $sql, $moved, $policy) = @$_;
    my ($key, $secret) = ('/changed/' . ++$n, Fleet::secret());
    $policy ||= 'first';
    my ($r) = Fleet::ask([$one, Fleet::handshake("$key?p=$policy", $secret)]);
    is $r->{status}, 200, "$what: first it was well";
    set($sql, $key);
    $key .= $moved || '';
    for my $host ($two, $one) {
        is Fleet::status(Fleet::ask(
            [$host, Fleet::event($key, $secret)],
            [$host, Fleet::heartbeat($key, 'another-' . $secret)],
            [$host, Fleet::handshake("$key?p=open", $secret)],
            [$host, Fleet::handshake($key, Fleet::secret())]
        )), '503 503 503 503', 'it counts for nothing, nor makes room';
        like $host->slurp('error.log'),
            qr{\[crit\].*a secret of key "localhost\Q$key\E" was changed},
            'the log names it';
    }
    is Fleet::status(map { Fleet::ask($_) }
        [$two, Fleet::revoke($key)], [$one, Fleet::handshake($key, $secret)],
        [$two, Fleet::heartbeat($key, $secret)]), '204 200 200',
        'revoked, it can come again';
}

for my $host (@hosts) {
    $host->secrecy('plain-secret');
    $host->end;
}
$pg->end;

done_testing;
