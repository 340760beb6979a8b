package Relay;

# A relay between a program and a server, both on this machine, that can do
# what networks do.
#
#     my $r = Relay->new($port);
#     $r->mode('freeze');     nothing goes on, connections stay
#     $r->mode('swallow');    what comes behind a COMMIT reaches the server, but
#                             its answer is lost, and the connection is cut
#     $r->mode('cut');        ends all connections, and accepts none
#     $r->mode('pass');

use strict;
use warnings;

use IO::Handle;
use IO::Select;
use IO::Socket::INET;
use POSIX ();

use Receiver qw(port);

sub new {
    my ($class, $to) = @_;
    my $port   = port();
    my $listen = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1',
        LocalPort => $port,
        Listen    => 64,
        ReuseAddr => 1
    ) or die "listen: $!\n";
    pipe my $in, my $out   or die "pipe: $!\n";
    pipe my $ack, my $done or die "pipe: $!\n";
    my $pid = fork;
    die "fork: $!\n" if !defined $pid;
    if (!$pid) {
        close $out;
        $done->autoflush(1);
        relay($to, $listen, $in, $done);
        POSIX::_exit(0);
    }
    close $in;
    close $done;
    $out->autoflush(1);
    return bless {
        pid  => $pid,
        port => $port,
        out  => $out,
        ack  => $ack,
        me   => $$
    }, $class;
}

sub mode {
    my ($self, $mode) = @_;
    print {$self->{out}} "$mode\n";
    sysread $self->{ack}, my $byte, 1;
    return $self;
}

sub relay {
    my ($to, $listen, $in, $done) = @_;
    my $mode = 'pass';
    my $all  = IO::Select->new($in, $listen);
    my (%peer, %client, %lost);

    my $end = sub {
        my ($s) = @_;
        for my $one (grep {$_} $s, delete $peer{$s}) {
            delete @{$_}{$one} for \%peer, \%client, \%lost;
            $all->remove($one);
            close $one;
        }
    };

    while (1) {
        my @ready
            = $mode eq 'freeze'
            ? IO::Select->new($in)->can_read
            : $all->can_read;

        for my $s (@ready) {
            if ($s == $in) {
                return if !defined($mode = readline $in);
                chomp $mode;
                if ($mode eq 'cut') {
                    $end->($_)
                        for grep { $_ != $in && $_ != $listen } $all->handles;
                }
                syswrite $done, '.';
                last;
            }
            if ($s == $listen) {
                my $c = $listen->accept or next;
                my $u
                    = $mode eq 'cut'
                    ? undef
                    : IO::Socket::INET->new(PeerAddr => "127.0.0.1:$to");
                if (!$u) {
                    close $c;
                    next;
                }
                $all->add($c, $u);
                @peer{$c, $u} = ($u, $c);
                $client{$c} = 1;
                next;
            }
            next if !$peer{$s};
            my $n = sysread $s, my $data, 65536;
            if (!$n || $lost{$s}) {
                $end->($s);
                next;
            }
            syswrite $peer{$s}, $data;
            $lost{$peer{$s}} = 1
                if $mode eq 'swallow' && $client{$s} && $data =~ /journal.*COMMIT/s;
        }
    }
    return;
}

sub DESTROY {
    my ($self) = @_;
    return if $$ != $self->{me};
    local $? = 0;
    kill 'KILL', $self->{pid};
    waitpid $self->{pid}, 0;
    return;
}

1;
