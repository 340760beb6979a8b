package Receiver;

# An nginx with the module in a directory of its own, an application behind
# it that writes down what reaches it, and a client that speaks in raw bytes.

use strict;
use warnings;

use Carp qw(croak);
use Cwd qw(getcwd);
use Digest::SHA qw(hmac_sha256_hex sha256_hex);
use Exporter qw(import);
use File::Path qw(remove_tree);
use File::Temp qw(tempdir);
use IO::Select;
use IO::Socket::INET;
use IO::Socket::UNIX;
use POSIX ();
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT_OK = qw(port sign secret_id version wait_for request response
    raw);

my $main_pid = $$;
my @locks;

# A warning fails the file, for a green run has none.

$SIG{__WARN__} = sub {
    print {*STDERR} @_;
    fail('no warning') if $$ == $main_pid;
};

# Whether the nginx under test was built with threads.

sub threads {
    my $nginx = binary();
    return scalar(`$nginx -V 2>&1` =~ /--with-threads\b/);
}

# The version of the module: here alone it is written for the code.

sub version {
    my ($version) = qx(cat src/ngx_asana.h) =~ /NGX_ASANA_VERSION\s+"(.*)"/;
    return $version;
}

# A free port that no other test file takes meanwhile, in whatever root
# directory it runs: names of such sockets belong to the network.

sub port {
    for my $port (map { 20000 + int rand 12000 } 1 .. 200) {
        my $lock = IO::Socket::UNIX->new(
            Local  => "\0asana-hook-port-$port",
            Listen => 1
        ) or next;
        my $s = IO::Socket::INET->new(
            LocalAddr => '127.0.0.1',
            LocalPort => $port,
            Listen    => 1
        ) or next;
        close $s;
        push @locks, $lock;
        return $port;
    }
    croak 'no free port';
}

sub sign { my ($secret, $body) = @_; return hmac_sha256_hex($body, $secret) }

sub secret_id { my ($secret) = @_; return substr sha256_hex($secret), 0, 16 }

# Waits until the code returns a true value, which it returns.

sub wait_for {
    my ($code, $seconds) = @_;
    my $end = time + ($seconds || 30);
    while (1) {
        my $value = $code->();
        return $value if $value;
        return if time > $end;
        usleep 5000;
    }
    return;
}

# Options: location, server, http, main (lines of the configuration), zone
# (parameters), level (of the error log), workers, expect (a pattern of bad
# lines that may come).

sub new {
    my ($class, %opt) = @_;
    my $dir  = tempdir('asana-hook-XXXXXX', TMPDIR => 1);
    my $self = bless {
        level    => 'info',
        zone     => '',
        location => '',
        server   => '',
        http     => '',
        main     => '',
        env      => {},
        workers  => 1,
        %opt,
        dir      => $dir,
        port     => port(),
        app_port => port(),
        pids     => []
    }, $class;
    chmod 0755, $dir;
    mkdir "$dir/seen" or croak $!;
    return $self;
}

sub globals {
    my ($self) = @_;
    my $dir = $self->{dir};
    my $so  = $ENV{ASANA_HOOK_MODULE}
        || getcwd() . '/build/ngx_http_asana_hook_module.so';
    my $load = $ENV{ASANA_HOOK_STATIC} ? ''                : "load_module $so;";
    if ($load && $self->{fleet}) {
        (my $other = $load) =~ s/hook_module/hook_postgres_module/;
        $load .= "\n$other";
    }
    my $user = $> == 0                 ? 'user www-data;' : '';
    return <<"END";
$load
$user
pid $dir/nginx.pid;
lock_file $dir/nginx.lock;
error_log $dir/error.log $self->{level};
worker_processes $self->{workers};
$self->{main}
events { worker_connections 1024; }
END
}

sub globals_http {
    my ($self) = @_;
    my $dir  = $self->{dir};
    my @temp = (
        "client_body_temp_path $dir/tmp-body;\n",
        map {"${_}_temp_path $dir/tmp-$_;\n"} qw(proxy fastcgi uwsgi scgi)
    );
    return join('', @temp) . <<"END";
    log_format hook '\$request_method \$uri \$status '
        '[\$asana_hook_status] [\$asana_hook_key] [\$asana_hook_secret_id]';
    access_log $dir/access.log hook;
END
}

# The configuration of a receiver; new()'s options go into it.

sub conf {
    my ($self) = @_;
    my ($main, $http) = ($self->globals, $self->globals_http);
    my $state = $self->{fleet} || "$self->{dir}/state";
    my $zone  = "zone=hooks:1m state=$state $self->{zone}";
    return <<"END";
$main
http {
$http
    asana_hook_zone \$server_name\$uri $zone;
    $self->{http}
    server {
        listen 127.0.0.1:$self->{port};
        server_name localhost;
        $self->{server}
        location / {
            asana_hook hooks;
            $self->{location}
            proxy_pass http://127.0.0.1:$self->{app_port};
        }
    }
}
END
}

sub write_file {
    my ($self, $name, $text) = @_;
    open my $fh, '>', "$self->{dir}/$name.new" or croak "$name: $!";
    binmode $fh;
    print {$fh} $text;
    close $fh or croak "$name: $!";
    rename "$self->{dir}/$name.new", "$self->{dir}/$name" or croak $!;
    return;
}

sub slurp {
    my ($self, $name) = @_;
    open my $fh, '<', "$self->{dir}/$name" or return '';
    binmode $fh;
    local $/ = undef;
    my $text = <$fh>;
    close $fh;
    return defined $text ? $text : '';
}

# Its full path, which an upgrade needs.

sub binary {
    my $name = $ENV{TEST_NGINX_BINARY} || 'nginx';
    return $name if $name =~ m{/};
    for my $dir (split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin') {
        return "$dir/$name" if -x "$dir/$name";
    }
    return $name;
}

# Runs nginx with arguments; returns its exit code and what it printed.

sub nginx {
    my ($self, @args) = @_;
    my $pid = open my $out, '-|';
    croak "fork: $!" unless defined $pid;
    if (!$pid) {
        delete $ENV{NGINX};
        @ENV{ keys %{ $self->{env} } } = values %{ $self->{env} };
        open STDERR, '>&', \*STDOUT or POSIX::_exit(127);
        exec binary(), '-p', $self->{dir}, '-c', "$self->{dir}/nginx.conf",
            '-e', "$self->{dir}/error.log", @args
            or POSIX::_exit(127);
    }
    local $/ = undef;
    my $text = <$out>;
    close $out;
    return ($? >> 8, defined $text ? $text : '');
}

sub test_config {
    my ($self, $conf) = @_;
    $self->write_file('nginx.conf', $conf);
    return $self->nginx('-t');
}

sub run {
    my ($self, $conf) = @_;
    $self->write_file('nginx.conf', $conf || $self->conf);
    $self->start;
    return $self;
}

sub start {
    my ($self) = @_;
    my ($code, $text) = $self->nginx;
    if ($code) {
        diag $text, $self->slurp('error.log');
        BAIL_OUT('nginx does not start');
    }
    wait_for(sub { $self->master && $self->workers >= $self->{workers} }, 30)
        or BAIL_OUT('nginx has no workers');
    return;
}

sub master {
    my ($self) = @_;
    my ($pid) = $self->slurp('nginx.pid') =~ /(\d+)/;
    return $pid && !gone($pid) ? $pid : undef;
}

sub workers {
    my ($self, $master) = @_;
    $master ||= $self->master or return ();
    my @pids;
    for my $stat (glob '/proc/[0-9]*/stat') {
        open my $fh, '<', $stat or next;
        my $line = <$fh>;
        close $fh;
        next unless defined $line && $line =~ /^(\d+) \(.*\) (\S) (\d+) /;
        push @pids, $1 if $3 == $master && $2 ne 'Z';
    }
    return @pids;
}

# Dead, though perhaps not yet collected by its parent.

sub gone {
    my @pids = @_;
    for my $pid (@pids) {
        open my $fh, '<', "/proc/$pid/stat" or next;
        my $line = <$fh>;
        close $fh;
        return 0 if defined $line && $line !~ /\) [ZX] /;

        # its sockets are those of its other threads as well
        return 0 if (() = glob "/proc/$pid/task/*") > 1;
    }
    return 1;
}

sub stop {
    my ($self, $sig) = @_;
    my $master = $self->master or return;
    my @pids   = ($master, $self->workers);
    kill $sig || 'QUIT', $master;
    wait_for(sub { gone(@pids) }, 30) or ok(0, 'nginx ends');
    return;
}

# As a power cut for nginx: master and workers at once.

sub kill9 {
    my ($self) = @_;
    my $master = $self->master or return;
    my @pids   = ($master, $self->workers);
    kill 'KILL', @pids;
    wait_for(sub { gone(@pids) });
    unlink "$self->{dir}/nginx.pid";
    return;
}

sub reload {
    my ($self, $conf) = @_;
    $self->write_file('nginx.conf', $conf) if $conf;
    my @old = $self->workers;
    kill 'HUP', $self->master;
    return wait_for(sub { gone(@old) && $self->workers }, 30);
}

# The application: what it gets lies in seen/N as it came, it answers with
# what lies in "answer".

sub app {
    my ($self) = @_;
    $self->answer(200, "X-App: yes\r\n", 'app');
    my $listen = IO::Socket::INET->new(
        LocalAddr => '127.0.0.1',
        LocalPort => $self->{app_port},
        Listen    => 128,
        ReuseAddr => 1
    ) or croak "listen: $!";
    my $pid = fork;
    croak "fork: $!" unless defined $pid;
    if ($pid) {
        push @{ $self->{pids} }, $pid;
        return $self;
    }
    local $SIG{PIPE} = 'IGNORE';
    my $n = 0;
    while (my $c = $listen->accept) {
        my $raw = read_request($c);
        next unless length $raw;
        $self->write_file('seen/new', $raw);
        rename "$self->{dir}/seen/new",
            sprintf '%s/seen/%06d', $self->{dir}, ++$n;
        print {$c} $self->slurp('answer');
        close $c;
    }
    POSIX::_exit(0);
    return;
}

sub read_request {
    my ($c) = @_;
    my $raw = '';
    while ($raw !~ /\r\n\r\n/) {
        sysread $c, $raw, 65536, length $raw or return $raw;
    }
    my ($head) = $raw =~ /^(.*?\r\n\r\n)/s;
    if ($head =~ /^Content-Length: (\d+)/mi) {
        my $want = length($head) + $1;
        while (length $raw < $want) {
            sysread $c, $raw, 65536, length $raw or last;
        }
    }
    return $raw;
}

sub answer {
    my ($self, $status, $headers, $body) = @_;
    $body = '' unless defined $body;
    $self->write_file('answer',
        "HTTP/1.1 $status X\r\n" . ($headers || '') . 'Content-Length: '
            . length($body) . "\r\n\r\n$body");
    return;
}

# What has reached the application since the last call: [head, body], ...

sub seen {
    my ($self) = @_;
    my @seen;
    for my $file (sort glob "$self->{dir}/seen/0*") {
        my ($name) = $file =~ m{(seen/\d+)$};
        push @seen, [split /\r\n\r\n/, $self->slurp($name), 2];
        unlink $file;
    }
    return @seen;
}

sub connection {
    my ($self, $port) = @_;
    return IO::Socket::INET->new(
        PeerAddr => '127.0.0.1',
        PeerPort => $port || $self->{port}
    ) || croak "connect: $!";
}

# Sends pieces of raw bytes, each as a segment of its own.

sub request {
    my ($s, @pieces) = @_;
    local $SIG{PIPE} = 'IGNORE';
    for my $i (0 .. $#pieces) {
        my $left = $pieces[$i];
        while (length $left) {
            my $n = syswrite $s, $left;
            last unless $n;
            substr $left, 0, $n, '';
        }
        usleep 20000 if $i < $#pieces;
    }
    return $s;
}

# Reads one response; its status is 0 if there is none.

sub response {
    my ($s, $seconds, $head_only) = @_;
    my $raw  = '';
    my $end  = time + ($seconds || 30);
    my $more = sub {
        my $left = $end - time;
        return if $left <= 0 || !IO::Select->new($s)->can_read($left);
        return sysread $s, $raw, 65536, length $raw;
    };
    my $r = { status => 0, head => '', body => '' };
    while (1) {
        while ($raw !~ /\r\n\r\n/) {
            $more->() or return $r;
        }
        last unless $raw =~ s{^HTTP/1\.1 100 .*?\r\n\r\n}{}s;
        $r->{continued} = 1;
    }
    my ($head) = $raw =~ /^(.*?\r\n\r\n)/s;
    my ($length) = $head =~ /^Content-Length: (\d+)/mi;
    my $done
        = $head_only        ? sub {1}
        : defined $length   ? sub { length $raw >= length($head) + $length }
        : $head =~ /chunked/ ? sub { $raw =~ /\r\n0\r\n\r\n$/ }
        :                     sub {0};
    while (!$done->()) {
        $more->() or last;
    }
    ($r->{status}) = $head =~ m{^HTTP/1\.[01] (\d+)};
    $r->{head} = $head;
    $r->{body} = substr $raw, length $head;
    return $r;
}

sub http {
    my ($self, @pieces) = @_;
    my $s = $self->connection;
    request($s, @pieces);
    my $r = response($s, undef, $pieces[0] =~ /^HEAD /);
    close $s;
    return $r;
}

# A request with the lines of headers given, and a body.

sub call {
    my ($self, $method, $uri, $headers, $body) = @_;
    my @lines = (
        "$method $uri HTTP/1.1",
        'Host: localhost',
        'Connection: close',
        @{ $headers || [] }
    );
    push @lines, 'Content-Length: ' . length $body if defined $body;
    return $self->http(join("\r\n", @lines)
            . "\r\n\r\n"
            . (defined $body ? $body : ''));
}

sub handshake {
    my ($self, $uri, $secret) = @_;
    return $self->call('POST', $uri, ["X-Hook-Secret: $secret"], '');
}

sub deliver {
    my ($self, $uri, $secret, $body, @headers) = @_;
    return $self->call('POST', $uri,
        ['X-Hook-Signature: ' . sign($secret, $body), @headers], $body);
}

# A request of many().

sub raw {
    my ($uri, $header, $body) = @_;
    return "POST $uri HTTP/1.1\r\nHost: localhost\r\n$header\r\n"
        . 'Content-Length: ' . length($body) . "\r\n\r\n$body";
}

# Sends requests over 32 connections that are kept, one after the other on
# each of them; returns the responses.

sub many {
    my ($self, @requests) = @_;
    my (@s, @responses);
    while (@requests) {
        my @next = splice @requests, 0, 32;
        for my $i (0 .. $#next) {
            $s[$i] ||= $self->connection;
            request($s[$i], $next[$i]);
        }
        for my $i (0 .. $#next) {
            my $r = response($s[$i], 60);
            push @responses, $r;
            $s[$i] = undef
                if !$r->{status} || $r->{head} =~ /^Connection: close/m;
        }
    }
    return @responses;
}

# The status words of the access log since the last call, at least n.  A line
# may be there in part only, if it begins on one page and ends on the next.

sub words {
    my ($self, $n) = @_;
    my @lines;
    my $read = $self->{read} || 0;
    wait_for(
        sub {
            my @all = $self->slurp('access.log') =~ /^(.*)\n/mg;
            @lines = @all[$read .. $#all];
            return @lines >= ($n || 1);
        }
    );
    $self->{read}  = $read + @lines;
    $self->{lines} = [@lines];
    return map { /^\S+ \S+ \d+ \[(.*?)\]/ ? $1 : '?' } @lines;
}

# Fails if the log has a line that must never be there.

sub check {
    my ($self) = @_;
    my $bad
        = qr/\[alert\]|\[emerg\]|exited on signal|Sanitizer|runtime error:/;
    my @lines = grep {/$bad/} split /\n/, $self->slurp('error.log');
    @lines = grep { !/$self->{expect}/ } @lines if $self->{expect};
    ok(!@lines, 'no alarm in the error log') or diag join "\n", @lines;
    return;
}

# Fails if a log shows any of these.

sub secrecy {
    my ($self, @secrets) = @_;
    my $text = $self->slurp('error.log') . $self->slurp('access.log');
    ok(!(grep { index($text, $_) >= 0 } @secrets),
        'no secret, signature or digest in the logs');
    return;
}

# Ends nginx, looks at its log, removes the directory.

sub end {
    my ($self) = @_;
    return if $self->{ended}++;
    $self->stop;
    kill 'TERM', @{ $self->{pids} };
    waitpid $_, 0 for @{ $self->{pids} };
    $self->check;
    diag $self->slurp('error.log')
        if $ENV{ASANA_HOOK_VERBOSE} && !Test::More->builder->is_passing;
    remove_tree($self->{dir}) unless $ENV{ASANA_HOOK_KEEP};
    return;
}

# A file that died leaves nothing running either.

sub DESTROY {
    my ($self) = @_;
    return if $$ != $main_pid || $self->{ended};
    local ($?, $!, $@);
    kill 'KILL', grep {$_} $self->workers, $self->master, @{ $self->{pids} };
    remove_tree($self->{dir}) unless $ENV{ASANA_HOOK_KEEP};
    return;
}

1;
