package Storm;

# Clients that enroll key after key, until nginx is killed under them.  Each
# handshake that was answered has to be there afterwards.

use strict;
use warnings;

use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(usleep);

use Receiver qw(raw request response sign wait_for);

sub secret { return 'a-secret-of-printable-text-0123456789' }

# Of a receiver that runs and answers heartbeats by itself.

sub new {
    my ($class, $t) = @_;
    return bless { t => $t, rounds => 0, n => 0, lost => [], keys => [] },
        $class;
}

sub client {
    my ($self, $name) = @_;
    my $t   = $self->{t};
    my $pid = fork;
    die "fork: $!" unless defined $pid;
    return $pid if $pid;
    open my $fh, '>', "$t->{dir}/storm-$name" or POSIX::_exit(1);
    $fh->autoflush;
    for my $n (1 .. 100_000) {
        my $key = "/$name/$n";
        my $s   = IO::Socket::INET->new(
            PeerAddr => '127.0.0.1',
            PeerPort => $t->{port}
        ) or last;
        request($s, raw($key, 'X-Hook-Secret: ' . secret() . $key, ''));
        my $r = response($s);
        print {$fh} "$key\n" if $r->{status} == 200;
        last unless $r->{status};
    }
    close $fh;
    POSIX::_exit(0);
    return;
}

sub noted {
    my ($self) = @_;
    return map { split /\n/, $self->{t}->slurp($_) }
        map {m{([^/]+)$}} glob "$self->{t}{dir}/storm-*";
}

# One storm, ended by SIGKILL; what is to be done before nginx starts again.

sub killed {
    my ($self, $between) = @_;
    my $t = $self->{t};
    unlink glob "$t->{dir}/storm-*";
    my $round   = ++$self->{n};
    my @clients = map { $self->client("$round-$_") } 1 .. 4;
    wait_for(sub { $self->noted >= 8 });
    usleep rand 60_000;
    $t->kill9;
    waitpid $_, 0 for @clients;
    my @keys = $self->noted;
    $self->{rounds}++ if @keys >= 8;
    $between->() if $between;
    $t->start;
    push @{ $self->{lost} }, $self->missing(@keys);
    push @{ $self->{keys} }, @keys;

    if ($round % 2) {
        $t->stop;
        $t->start;
    }
    return;
}

# Storms that were any, all keys that were answered, those that were lost.

sub rounds   { return $_[0]{rounds} }
sub answered { return @{ $_[0]{keys} } }
sub lost     { return @{ $_[0]{lost} } }

# The keys whose secret does not verify.

sub missing {
    my ($self, @keys) = @_;
    my $body = '{"events":[]}';
    my @r    = $self->{t}->many(map {
        raw($_, 'X-Hook-Signature: ' . sign(secret() . $_, $body), $body)
    } @keys);
    return map { $keys[$_] } grep { $r[$_]->{status} != 200 } 0 .. $#keys;
}

1;
