package Upstream;

# A raw upstream: each request names by X-Plan what to do with it.
#
#     $up->plan(name => [send => $bytes], [gate => 'go'], 'close');
#     $up->reached('name');    a request with that plan has come
#     $up->open('go');         lets it go on
#
# "bytes" sends one byte at a time.  Without "close" the connection is kept
# for the next request.

use strict;
use warnings;

use Carp qw(croak);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(IPPROTO_TCP MSG_PEEK SOL_SOCKET SO_LINGER TCP_NODELAY);
use Time::HiRes qw(usleep);

use Receiver qw(port wait_for);

sub new {
    my ($class, $t) = @_;
    my $self = bless { t => $t, port => port(), n => 0 }, $class;
    mkdir "$t->{dir}/plans" or croak $!;
    my $listen = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1',
        LocalPort => $self->{port},
        Listen    => 128,
        ReuseAddr => 1
    ) or croak "listen: $!";
    my $pid = fork;
    croak "fork: $!" unless defined $pid;
    if ($pid) {
        push @{ $t->{pids} }, $pid;
        return $self;
    }
    local $SIG{CHLD} = 'IGNORE';
    local $SIG{PIPE} = 'IGNORE';
    my $server = $$;
    while (1) {
        my $c = $listen->accept or next;
        next if fork;
        close $listen;
        setsockopt $c, IPPROTO_TCP, TCP_NODELAY, 1;
        while (serve($self, $c, $server)) { }
        POSIX::_exit(0);
    }
    return;
}

sub serve {
    my ($self, $c, $server) = @_;
    my $t   = $self->{t};
    my $raw = Receiver::read_request($c);
    return unless $raw =~ /^X-Plan: (\S+)\r$/mi;
    my $name = $1;
    my $log  = "plans/$name.got";
    $t->write_file($log, $t->slurp($log) . "$$\n$raw");
    for my $step (split /\n/, $t->slurp("plans/$name")) {
        my ($what, $value) = split / /, $step;
        if ($what eq 'send') {
            print {$c} pack 'H*', $value;
            $c->flush;
        } elsif ($what eq 'bytes') {
            for my $byte (split //, pack 'H*', $value) {
                syswrite $c, $byte or return;
                usleep 200;
            }
        } elsif ($what eq 'gate') {
            until (-e "$t->{dir}/plans/$value.open") {
                return if getppid != $server || has_left($c);
                usleep 5000;
            }
        } elsif ($what eq 'reset') {
            setsockopt $c, SOL_SOCKET, SO_LINGER, pack 'ii', 1, 0;
            return;
        } else {
            return;
        }
    }
    return 1;
}

# Whether nginx has closed the connection: many that wait for nothing would keep
# the machine busy.

sub has_left {
    my ($c) = @_;
    my $byte;
    return IO::Select->new($c)->can_read(0)
        && defined recv($c, $byte, 1, MSG_PEEK) && $byte eq '';
}

sub plan {
    my ($self, $name, @steps) = @_;
    my $text = '';
    for my $step (@steps) {
        my ($what, $value) = ref $step ? @{$step} : ($step, '');
        $value = unpack 'H*', $value if $what eq 'send' || $what eq 'bytes';
        $text .= "$what $value\n";
    }
    $self->{t}->write_file("plans/$name", $text);
    return $name;
}

sub open {
    my ($self, $gate) = @_;
    $self->{t}->write_file("plans/$gate.open", '');
    return;
}

# The requests as they came, each behind a line with the connection's number.

sub reached {
    my ($self, $name, $seconds) = @_;
    return wait_for(sub { $self->{t}->slurp("plans/$name.got") }, $seconds);
}

# A create call in flight: the client's end of it, and the name of its gate.

sub call {
    my ($self, $uri, $plan, @headers) = @_;
    my $s = $self->{t}->connection;
    Receiver::request($s, create($uri, $plan, @headers));
    $self->reached($plan);
    return $s;
}

sub create {
    my ($uri, $plan, @headers) = @_;
    my $form = 'resource=1&target=x';
    @headers = ('Connection: close') unless @headers;
    return join "\r\n", "POST $uri HTTP/1.1", 'Host: localhost',
        "X-Plan: $plan", @headers, 'Content-Length: ' . length $form, '',
        $form;
}

# Asana's answer to a create call.

sub created {
    my ($secret) = @_;
    my $body = '{"data":{"gid":"12","resource":{"gid":"1","name":"a"},'
        . '"active":false},"X-Hook-Secret":"' . $secret . '"}';
    return by_length(201, $body);
}

sub by_length {
    my ($status, $body, @headers) = @_;
    return join "\r\n", "HTTP/1.1 $status Created",
        'Content-Type: application/json; charset=UTF-8', 'X-Asana: a, b',
        @headers, 'Content-Length: ' . length $body, '', $body;
}

sub chunked {
    my ($status, @chunks) = @_;
    return join "\r\n", "HTTP/1.1 $status Created", 'X-Asana: c',
        'Transfer-Encoding: chunked', '',
        (map { sprintf("%x\r\n", length) . $_ } @chunks), "0\r\n\r\n";
}

1;
