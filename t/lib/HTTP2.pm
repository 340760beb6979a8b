package HTTP2;

# A client of HTTP/2 in clear text (RFC 9113) that sends each frame when it
# is told to.  Headers go out as literals (RFC 7541, 6.2.2); of those that
# come in only the status is read.

use strict;
use warnings;

use IO::Select;
use Time::HiRes qw(time usleep);

use constant {
    DATA     => 0,
    HEADERS  => 1,
    RESET    => 3,
    SETTINGS => 4,
    PING     => 6,
    GOAWAY   => 7
};

sub new {
    my ($class, $socket) = @_;
    my $self
        = bless { s => $socket, next => 1, in => '', streams => {} }, $class;
    $self->write("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    $self->frame(SETTINGS, 0, 0, '');
    return $self;
}

sub write {
    my ($self, $bytes) = @_;
    local $SIG{PIPE} = 'IGNORE';
    while (length $bytes) {
        my $n = syswrite $self->{s}, $bytes or return;
        substr $bytes, 0, $n, '';
    }
    return 1;
}

sub frame {
    my ($self, $type, $flags, $id, $payload) = @_;
    return $self->write(substr(pack('N', length $payload), 1)
            . pack('CCN', $type, $flags, $id)
            . $payload);
}

sub literal {
    my ($text) = @_;
    my $n = length $text;
    return pack('C', $n) . $text if $n < 127;
    $n -= 127;
    my $out = pack 'C', 127;
    while ($n > 127) {
        $out .= pack 'C', 128 | $n & 127;
        $n >>= 7;
    }
    return $out . pack('C', $n) . $text;
}

# Opens a stream and returns its number.

sub headers {
    my ($self, $end, @headers) = @_;
    my $id = $self->{next};
    $self->{next} += 2;

    # pseudo headers come first
    my @pseudo = grep { $_->[0] =~ /^:/ } @headers;
    my @others = grep { $_->[0] !~ /^:/ } @headers;
    my $block = join '', map { "\0" . literal($_->[0]) . literal($_->[1]) }
        @pseudo, [':scheme', 'http'], [':authority', 'localhost'], @others;
    $self->frame(HEADERS, 4 | ($end ? 1 : 0), $id, $block);
    return $id;
}

sub data {
    my ($self, $id, $bytes, $end) = @_;
    return $self->frame(DATA, $end ? 1 : 0, $id, $bytes);
}

sub reset { my ($self, $id) = @_; return $self->frame(RESET, 0, $id, pack 'N', 8) }

sub close { my ($self) = @_; return close $self->{s} }

# Waits until the server has read all that was sent.

sub settle {
    my ($self) = @_;
    $self->{pong} = 0;
    $self->frame(PING, 0, 0, 'settled?');
    my $end = time + 5;
    while (!$self->{pong} && time < $end) {
        $self->read($end) or last;
    }
    return;
}

# Waits for the end of a stream: { status, block, body }, status 0 if none.

sub wait {
    my ($self, $id) = @_;
    my $end = time + 10;
    my $r = $self->{streams}{$id} ||= { status => 0, block => '', body => '' };
    while (!$r->{end}) {
        $self->read($end) or last;
    }
    return $r;
}

sub read {
    my ($self, $end) = @_;
    my $need = sub {
        my ($n) = @_;
        while (length $self->{in} < $n) {
            my $left = $end - time;
            return if $left <= 0;
            return unless IO::Select->new($self->{s})->can_read($left);
            sysread $self->{s}, $self->{in}, 65536, length $self->{in}
                or return;
        }
        return 1;
    };
    $need->(9) or return;
    my ($high, $low, $type, $flags, $id) = unpack 'CnCCN', $self->{in};
    my $length = $high << 16 | $low;
    $need->(9 + $length) or return;
    my $payload = substr $self->{in}, 9, $length;
    substr $self->{in}, 0, 9 + $length, '';

    my $r = $self->{streams}{$id} ||= { status => 0, block => '', body => '' };
    if ($type == SETTINGS && !($flags & 1)) {
        $self->frame(SETTINGS, 1, 0, '');
    } elsif ($type == PING && $flags & 1) {
        $self->{pong} = 1;
    } elsif ($type == HEADERS) {
        $r->{block} .= $payload;
        $r->{status} = status($payload) || $r->{status};
        $r->{end} = 1 if $flags & 1;
    } elsif ($type == DATA) {
        $r->{body} .= $payload;
        $r->{end} = 1 if $flags & 1;
    } elsif ($type == RESET) {
        $r->{end} = 1;
    }
    return 1;
}

# ":status" comes first: an index of the static table, or a literal.

sub status {
    my ($block) = @_;
    my %static = (
        8  => 200,
        9  => 204,
        10 => 206,
        11 => 304,
        12 => 400,
        13 => 404,
        14 => 500
    );
    $block =~ s/^[\x20-\x3f]+//;
    my $first = ord $block;
    return $static{ $first & 127 } if $first & 128;
    return $1 if $block =~ /^[\x08\x18\x48]\x03(\d{3})/;
    return 0;
}

1;
