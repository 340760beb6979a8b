# Tests for the promise of a 200 in a fleet: servers, backends and hosts are
# killed, and a synchronous standby takes over, while clients enroll.

use strict;
use warnings;

use lib 't/lib';

use POSIX ();
use Test::More;
use Time::HiRes qw(time usleep);

use Fleet;
use Postgres;
use Receiver qw(request response wait_for);

Fleet::usable();

my $seed = $ENV{ASANA_HOOK_SEED} || time ^ $$;
srand $seed;

my $rounds  = $ENV{ASANA_HOOK_ROUNDS} || 5;
my $clients = 4;
my $enough  = 30;

my $primary = Postgres->new;
my $standby = $primary->standby;
my @hosts   = Fleet::hosts($primary, 3,
    uri => "postgresql://asana_hook\@127.0.0.1:$primary->{port},"
        . "127.0.0.1:$standby->{port}/hooks?target_session_attrs=read-write",
    zone => 'poll=200ms timeout=1s');
my $dir = $hosts[0]{dir};

sub secret_of { my ($key) = @_; return "plain-secret-of-$key" }

# Handshakes, each for a key of its own, until the file "enough" is there; the
# status of each is noted as soon as it comes.

sub client {
    my ($name) = @_;
    my $pid = fork;
    die "fork: $!" if !defined $pid;
    return $pid if $pid;
    srand $$;
    open my $fh, '>', "$dir/storm-$name" or POSIX::_exit(1);
    $fh->autoflush;
    for my $n (1 .. 100_000) {
        last if -e "$dir/enough";
        my $key = "/storm/$name/$n";
        my $s   = eval { $hosts[rand @hosts]->connection };
        if ($s) {
            request($s, Fleet::handshake($key, secret_of($key)));
            my $status = response($s, 15)->{status};
            print {$fh} "$key $status\n";
            usleep($status == 200 ? 5_000 : 30_000);
        }
        else {
            usleep 10_000;
        }
    }
    close $fh;
    POSIX::_exit(0);
    return;
}

# What the clients of this round were answered: a status for each key.

sub noted {
    my %status;
    for my $file (glob "$dir/storm-*") {
        open my $fh, '<', $file or next;
        /^(\S+) (\d+)\n/ and $status{$1} = $2 while <$fh>;
        close $fh;
    }
    return %status;
}

sub took { my %status = noted(); return grep { $status{$_} == 200 } keys %status }

# All hosts take handshakes again, and know what is wrong.

my $fresh = 0;

sub settled {
    return wait_for(sub {
        my @r = Fleet::ask(map {
            my $key = '/settled/' . ++$fresh;
            ([$_, Fleet::handshake($key, secret_of($key))],
                [$_, Fleet::heartbeat("/none/$fresh", secret_of($key))])
        } @hosts);
        return Fleet::status(@r) eq '200 403 200 403 200 403' || !usleep 50_000;
    }, 40);
}

# The keys whose secrets do not verify on each host, or do not everywhere as on
# the first one; those that verify with a secret that never came.

sub wrong {
    my ($good, $open) = @_;
    my @ask = map {
        my $key = $_;
        map { [$_, Fleet::heartbeat($key, secret_of($key))] } @hosts
    } @$good, @$open;
    my @r = Fleet::ask(@ask);
    my (@lost, @split, @forged);
    for my $i (0 .. $#$good + @$open) {
        my $key = $i < @$good ? $good->[$i] : $open->[$i - @$good];
        my $s = Fleet::status(splice @r, 0, scalar @hosts);
        push @lost,  "$key: $s" if $i < @$good  && $s ne '200 200 200';
        push @split, "$key: $s" if $i >= @$good && $s !~ /^(200|403) \1 \1$/;
    }
    my @keys = (@$good)[0 .. ($#$good < 40 ? $#$good : 40)];
    my @f    = Fleet::ask(map {
        my $host = $_;
        map { [$host, Fleet::heartbeat($_, secret_of('another'))],
            [$host, Fleet::heartbeat("$_/never", secret_of("$_/never"))] } @keys
    } @hosts);
    push @forged, grep { $_->{status} != 403 } @f;
    return (\@lost, \@split, \@forged);
}

my %storm = (
    postmaster => sub {
        $primary->kill9;
        usleep rand 400_000;
        $primary->start;
    },
    backends => sub {
        my @pids = split /\n/, $primary->sql(q{SELECT pid FROM pg_stat_activity
            WHERE usename = 'asana_hook'});
        kill 'KILL', @pids[0 .. rand @pids];
        wait_for(sub { $primary->sql('SELECT 1', 'postgres', 1) eq '1' });
    },
    host => sub {
        my $host = $hosts[rand @hosts];
        $host->kill9;
        Fleet::forget($host);
        usleep rand 400_000;
        $host->start;
    },
    promotion => sub {
        $primary->kill9;
        $standby->promote or diag 'no promotion';
        ($primary, $standby) = ($standby, $primary);
        $standby->follow($primary);
    }
);
$storm{all} = sub { $storm{host}->(); $storm{postmaster}->() };

my (@all, @open, @lost, @split, @forged, @stuck, $weak);
my @kinds = qw(postmaster promotion backends host all);

for my $round (1 .. $rounds) {
    my $kind = $kinds[($round - 1) % @kinds];
    unlink glob "$dir/storm-*";
    unlink "$dir/enough";
    my @pids = map { client("$round-$_") } 1 .. $clients;
    wait_for(sub { took() >= $enough }, 20);
    usleep rand 100_000;
    my $before = took();
    my $start  = time;
    $storm{$kind}->();
    push @stuck, "$round: $kind" if !settled();
    my $back = time - $start;
    wait_for(sub { took() >= $before + $enough }, 20);
    open my $fh, '>', "$dir/enough" or die "enough: $!";
    close $fh or die "enough: $!";
    waitpid $_, 0 for @pids;

    my %status = noted();
    my @good   = grep { $status{$_} == 200 } sort keys %status;
    my @rest   = grep { $status{$_} != 200 } sort keys %status;
    $weak++ if $before < $enough || @good < $before + $enough;
    my ($lost, $split, $forged) = wrong(\@good, \@rest);
    push @lost,   @$lost;
    push @split,  @$split;
    push @forged, @$forged;
    push @all,    @good;
    push @open,   @rest;
    $primary->synchronous or diag 'no synchronous standby';
    note sprintf '%d %s: %d taken, %d not, back after %.1f s', $round, $kind,
        scalar @good, scalar @rest, $back;
}

is $weak, undef, "$rounds storms, seed $seed";
is join(', ', @stuck), '', 'after each of them all hosts go on';
is join(', ', @lost), '', scalar(@all) . ' secrets that were taken verify '
    . 'on each host';
is join(', ', @split), '', scalar(@open) . ' without an answer are nowhere, '
    . 'or everywhere';
is scalar @forged, 0, 'and no other one does';

# once more, with empty zones

for my $host (@hosts) {
    $host->stop;
    Fleet::forget($host);
    $host->start;
}
settled();
my ($lost) = wrong(\@all, []);
is join(', ', @$lost), '', 'nothing was lost later';

for my $host (@hosts) {
    $host->secrecy('plain-secret');
    $host->end;
}
unlike $_->log, qr/plain-secret/, 'no secret is in the log of PostgreSQL'
    for $primary, $standby;
$_->stop('QUIT')->end for $standby, $primary;

done_testing;
