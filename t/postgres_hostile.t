# Tests for a server, or a pooler before it, that answers what PostgreSQL never
# would: nothing is believed, and no worker crashes, spins or waits for it.

use strict;
use warnings;

use lib 't/lib';

use IO::Socket::INET;
use POSIX ();
use Test::More;
use Time::HiRes qw(time);

use Postgres;
use Receiver qw(wait_for);

Postgres->usable;

my $pg = Postgres->new(stopped => 1);

# messages of the protocol

sub message {
    my ($type, $body) = @_;
    return pack "a N a*", $type, 4 + length $body, $body;
}

sub columns {
    my ($n) = @_;
    return message('T', pack 'n(Z*NnNnNn)*', $n,
        map { ("c$_", 0, 0, 25, -1, -1, 0) } 1 .. $n);
}

sub row {
    my (@values) = @_;
    return message('D', pack 'n(a*)*', scalar @values,
        map { defined ? pack('N/a*', $_) : pack 'N', 0xffffffff } @values);
}

sub rows {
    my ($n, @rows) = @_;
    return columns($n) . join(q{}, map { row(@$_) } @rows)
        . message('C', "SELECT\0");
}

my $ready = message('Z', 'I');
my $hello = message('R', pack 'N', 0)
    . join(q{}, map { message('S', "$_\0") } "server_version\00015.0",
    "default_transaction_read_only\0off", "in_hot_standby\0off",
    "client_encoding\0UTF8")
    . $ready;

# What each statement is answered by a server that is well and has nothing.

my %well = (
    schema   => rows(1, [1]),
    recovery => rows(1, [0]),
    journal  => rows(2, [1 << 20, q{}]),
    position => rows(1, [1 << 20]),
    secrets  => rows(10),
    config   => rows(1),
    clock    => rows(3, [time, 1, 0]),
    other    => message('C', "OK\0")
);

sub kind {
    my ($sql) = @_;
    return 'other'    if $sql !~ /^\s*SELECT/;
    return 'schema'   if $sql =~ /asana_hook\.schema/;
    return 'recovery' if $sql =~ /pg_is_in_recovery/;
    return 'journal'  if $sql =~ /asana_hook\.journal/;
    return 'config'   if $sql =~ /set_config/;
    return 'clock'    if $sql =~ /fsync/;
    return 'position' if $sql =~ /asana_hook\.zones/;
    return 'secrets';
}

sub serve {
    my ($c, $answer, $endless) = @_;
    my $take = sub {
        my ($n) = @_;
        my $data = q{};
        while (length $data < $n) {
            sysread $c, $data, $n - length $data, length $data or POSIX::_exit(0);
        }
        return $data;
    };
    $take->(unpack('N', $take->(4)) - 4);
    syswrite $c, $hello;
    while (1) {
        my ($type, $len) = unpack 'aN', $take->(5);
        my $sql = $take->($len - 4);
        POSIX::_exit(0) if $type ne 'Q';
        for my $kind (map { kind($_) } split /;\s*(?=\w)/, $sql =~ s/\0//r) {
            my $text = $answer->{$kind} // $well{$kind};
            while ($answer->{$kind} && $endless) {
                syswrite $c, $text or POSIX::_exit(0);
            }
            syswrite $c, $text if length $text;
        }
        syswrite $c, $ready;
    }
}

my @servers;

END { kill "KILL", @servers if @servers }

sub server {
    my (@how) = @_;
    my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 16)
        or die "listen: $!\n";
    my $pid = fork // die "fork: $!\n";
    if (!$pid) {
        open STDOUT, ">", "/dev/null";
        open STDERR, ">", "/dev/null";
        local $SIG{CHLD} = 'IGNORE';
        while (my $c = $listen->accept) {
            next if fork;
            serve($c, @how);
        }
        POSIX::_exit(0);
    }
    push @servers, $pid;
    return $listen->sockport;
}

local $SIG{PIPE} = 'IGNORE';
my $n = 0;

sub hostile {
    my ($what, $find, $change, @how) = @_;
    my $d = $pg->driver(
        name    => 'h' . ++$n,
        uri     => $pg->uri(server(@how)) . '?sslmode=disable',
        poll    => 100,
        timeout => 500
    );
    my $start = time;
    like $d->ask('find /a 1'), qr/^(?:$find)$/, "$what: a look-up";
    is $d->ask('handshake /a first plain-secret-0123456789'), $change,
        "$what: a handshake";
    like $d->ask('find /a 1'), qr/^(?:$find)$/, "$what: and once more";
    cmp_ok time - $start, '<', 5, "$what: nothing waits";
    unlike $d->log, qr/plain-secret/, "$what: no secret in the log";
    $d->quit;
    return $d->log;
}

hostile('well', 'DECLINED', 'ADDED', {});

# results of a shape that no statement has

for my $kind (qw(recovery journal position secrets config clock)) {
    my @both = $kind =~ /position|secrets/ ? ('ERROR', 'FAILED')
        : $kind eq 'recovery' ? ('ERROR', 'ADDED')
        : $kind eq 'journal'  ? ('ERROR|DECLINED', 'ADDED')
        :                       ('DECLINED', 'FAILED');
    hostile("$kind, without columns", @both, {$kind => rows(0, [])});
    hostile("$kind, a copy", @both, {$kind => message('H', "\0\0\0")});
    hostile("$kind, no result", @both, {$kind => q{}});
}
hostile('a key of half a byte', 'DECLINED', 'ADDED',
    {journal => rows(2, [1 << 20, q{}], [(1 << 20) + 1, '6162 636'])});
hostile('a journal of one column', 'DECLINED', 'ADDED',
    {journal => rows(1, [1 << 20], [1 << 20])});
# one that says that it can be written, and cannot: it is told, and the next
# server is tried

{
    my $error = message('E', "SERROR\0C25006\0Mcannot execute it\0\0");
    my $d = $pg->driver(
        name    => 'two',
        timeout => 500,
        uri     => sprintf
            'postgresql://asana_hook@127.0.0.1:%d,127.0.0.1:%d/hooks?sslmode=disable',
            server({position => $error}), server({})
    );
    my $handshake = 'handshake /a first plain-secret-0123456789';
    is $d->ask($handshake), 'FAILED', 'read-only after all: a handshake';
    ok wait_for(sub { $d->ask($handshake) eq 'ADDED' }, 5),
        'the other server is found';
    like $d->log, qr/PostgreSQL failed: "cannot execute it"/, 'and it is told';
    $d->quit;
}

# names that are not resolved for long

{
    my $d = $pg->driver(name => 'names', timeout => 500,
        uri => 'postgresql://asana_hook@slow.invalid/hooks');
    is $d->ask('find /a 1'), 'ERROR', 'a name server is silent: a look-up';
    is $d->ask('find /a 1'), 'ERROR', 'and the next one';
    unlike $d->log, qr/slow\.invalid/, 'do not wait for it';
    ok wait_for(sub { $d->log =~ /PostgreSQL failed: .*slow\.invalid/ }),
        'it is told';
    is $d->ask('find /a 1'), 'ERROR', 'and all goes on';
    $d->quit;
}

hostile('no schema', 'ERROR', 'FAILED', {schema => rows(0, [])});

$pg->end;
done_testing;
