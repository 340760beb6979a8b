package Fleet;

# Hosts, each an nginx, that share their secrets in PostgreSQL.
#
#     Fleet::usable();                       or the file is skipped
#     my @hosts = Fleet::hosts($pg, 3);      Receivers; options are theirs
#     my @r = Fleet::ask(map { [$_, raw(...)] } @hosts);
#                                            responses, in the same order

use strict;
use warnings;

use Test::More;
use Time::HiRes qw(time);

use Postgres;
use Receiver qw(raw request response secret_id sign);

my $beat  = '{"events":[]}';
my $event = '{"events":[{"action":"changed"}]}';
my $fresh = 0;

sub usable {
    Postgres->usable;
    my $file = $ENV{ASANA_HOOK_STATIC}
        ? Receiver::binary()
        : 'build/ngx_http_asana_hook_postgres_module.so';
    plan skip_all => 'make found no libpq'
        if !-f $file || system 'grep', '-q', 'asana_hook.secrets', $file;
    return;
}

sub secret { return sprintf 'plain-secret-%020d', ++$fresh }

# "?p=" of a request is its policy, its word is in X-Word, a heartbeat is
# answered here.  Asana answers a create call with the secret and the gid that
# are in its headers.

sub hosts {
    my ($pg, $n, %opt) = @_;
    my $uri  = delete $opt{uri}  || $pg->uri;
    my $zone = delete $opt{zone} || 'poll=300ms';
    return map {
        my $t = Receiver->new(
            fleet    => $uri,
            zone     => "encryption_key=$pg->{dir}/key $zone",
            workers  => 2,
            http     => 'map $arg_p $enroll { "" first; default $arg_p; }
                keepalive_timeout 1h; keepalive_requests 1000000;',
            location => 'asana_hook_enroll $enroll;
                asana_hook_heartbeat answer;
                add_header X-Word $asana_hook_status always;',
            %opt
        );
        $t->{server} .= <<"END";
        location /api { asana_hook_api hooks write=on; }
        location = /static { return 200 static; }
        location = /asana {
            return 201 '{"data":{"gid":"\$http_x_gid"},"X-Hook-Secret":"\$http_x_secret"}';
        }
        location = /create {
            asana_hook_gateway hooks;
            proxy_pass http://127.0.0.1:$t->{port}/asana;
            add_header X-Word \$asana_hook_status always;
        }
END
        $t->run;
    } 1 .. $n;
}

# raw requests

sub handshake {
    my ($uri, $secret) = @_;
    return raw($uri, "X-Hook-Secret: $secret", '');
}

sub heartbeat {
    my ($uri, $secret) = @_;
    return raw($uri, 'X-Hook-Signature: ' . sign($secret, $beat), $beat);
}

sub event {
    my ($uri, $secret) = @_;
    return raw($uri, 'X-Hook-Signature: ' . sign($secret, $event), $event);
}

sub put {
    my ($uri, $secret) = @_;
    return "PUT /api/hooks?key=localhost$uri HTTP/1.1\r\nHost: localhost\r\n"
        . "X-Hook-Secret: $secret\r\n\r\n";
}

sub revoke {
    my ($uri, $secret) = @_;
    my $id = defined $secret ? '&id=' . secret_id($secret) : '';
    return "DELETE /api/hooks?key=localhost$uri$id HTTP/1.1\r\n"
        . "Host: localhost\r\nConnection: close\r\n\r\n";
}

sub create {
    my ($secret, $gid) = @_;
    return "POST /create HTTP/1.1\r\nHost: localhost\r\nX-Gid: $gid\r\n"
        . "X-Secret: $secret\r\nContent-Length: 1\r\n\r\nx";
}

sub get {
    my ($uri) = @_;
    return "GET $uri HTTP/1.1\r\nHost: localhost\r\n\r\n";
}

# Sends requests [host, raw] over connections that are kept, at most 64 to each
# host at once, and returns the responses.

my %kept;

sub ask {
    my @todo = @_;
    my @responses;
    while (@todo) {
        my (%n, @sent);
        while (@todo && ($n{ $todo[0][0] } || 0) < 64) {
            my ($host, $raw) = @{ shift @todo };
            my $slot = \$kept{$host}[$n{$host}++];
            ${$slot} ||= $host->connection;
            request(${$slot}, $raw);
            push @sent, $slot;
        }
        for my $slot (@sent) {
            my $r = response(${$slot});
            push @responses, $r;
            ${$slot} = undef
                if !$r->{status} || $r->{head} =~ /^Connection: close/mi;
        }
    }
    return @responses;
}

# After a host was restarted its connections are gone.

sub forget { my ($host) = @_; delete $kept{$host}; return }

sub status { return join ' ', map { $_->{status} } @_ }

sub word { return $_[0]{head} =~ /^X-Word: (\S+)\r$/m ? $1 : '' }

1;
