package Bench;

# What the benchmarks share: sides that differ in one thing, each an nginx of
# its own with one worker, and rounds of a quarter of a second, in each of which
# both sides come in random order.  Only one side is under load at a time.  The
# figure is the median of the ratios of the rounds, for single ones differ by
# far more than the sides do.  Each nginx is started several times, as where its
# memory happens to lie matters, and with the same limits of malloc: glibc would
# give memory back, and take it again, more or less often.
#
# A single worker has the last core for itself, and all the rest the others.

use strict;
use warnings;

use Carp qw(croak);
use Cwd qw(getcwd);
use Digest::SHA qw(hmac_sha256_hex);
use Exporter qw(import);
use File::Spec;
use FindBin;
use Getopt::Long qw(GetOptions);
use POSIX qw(uname);
use Time::HiRes qw(usleep);

use lib "$FindBin::Bin/../t/lib";
use Receiver qw(port);

our @EXPORT_OK = qw(options conf start_app side hook_side enroll secret body
    event script use_script heading show self_check record compare machine cores
    stop);

my %opt = (rounds => 40, starts => 4, seconds => 0.25, connections => 16);
my %malloc = (
    MALLOC_TRIM_THRESHOLD_ => 1 << 28,
    MALLOC_MMAP_THRESHOLD_ => 1 << 28
);
my (@running, $app);
my $cores = () = `cat /proc/cpuinfo` =~ /^processor/mg;

# Reads the options given and those of all benchmarks; the rest is a usage.

sub options {
    my ($usage, $own, @spec) = @_;
    my %all = (%opt, %$own);
    GetOptions(\%all, 'rounds=i', 'starts=i', 'seconds=f',
        'connections=i', 'data=s',
        @spec)
        && !@ARGV
        or die "usage: $usage\n    [--rounds N] [--seconds S] "
        . "[--starts N] [--connections N] [--data FILE]\n";
    chdir "$FindBin::Bin/.." or die $!;
    -f 'build/ngx_http_asana_hook_module.so' or die "make it first\n";
    `wrk -v 2>&1` =~ /^wrk/ or die "wrk is missing: apt-get install wrk\n";
    %opt = %all;
    $SIG{INT} = $SIG{TERM} = sub { exit 1 };
    if ($cores > 1) {
        system("taskset -cp 0-@{[$cores - 2]} $$ >/dev/null") == 0
            or die "taskset failed\n";
    }
    return \%opt;
}

sub cores { return $cores }

# The machine in one line, without its name.

sub machine {
    my ($model) = `grep -m1 'model name' /proc/cpuinfo` =~ /: (.*)/;
    my ($os, $kernel) = (uname())[0, 2];
    $kernel =~ s/^(\d+\.\d+).*/$1/;
    my $nginx = Receiver::binary();
    my $v = `$nginx -V 2>&1`;
    my ($version) = $v =~ m{nginx/(\S+)};
    my ($ssl) = $v =~ /running with (OpenSSL \S+)/;
    ($ssl) = $v =~ /built with (OpenSSL \S+)/ if !$ssl;
    return sprintf '%s, %d cores, %s %s, nginx %s, %s',
        $model || 'unknown', $cores, $os, $kernel, $version,
        $ssl || 'OpenSSL unknown';
}

# The lines for so many workers; more than one may run on any core.

sub workers {
    my ($n) = @_;
    my $mask = $n > 1 ? '1' x $cores : '1' . '0' x ($cores - 1);
    return "worker_processes $n;\nworker_cpu_affinity"
        . " $mask" x $n . ';';
}

# The configuration of a side.  Options: module (load it: 1 or its file),
# workers, main, http, server, location, port, env; in the strings "%d" is the
# directory of the side.

sub conf {
    my ($t, $side) = @_;
    my $user = $> == 0 ? 'user www-data;' : '';
    my $so = $side->{module} || '';
    $so = getcwd() . '/build/ngx_http_asana_hook_module.so' if $so eq '1';
    my $load = $so ? "load_module $so;" : '';
    if ($side->{state}) {
        (my $other = $so) =~ s/hook_module/hook_postgres_module/;
        $load .= "\nload_module $other;";
    }
    my $temp = join '',
        map {"    ${_}_temp_path %d/tmp-$_;\n"}
        qw(client_body proxy fastcgi uwsgi scgi);
    my $buffer = $side->{buffer} || '16k';
    my $text = <<"END";
$load
$side->{main}
$user
pid %d/nginx.pid;
lock_file %d/nginx.lock;
error_log %d/error.log $side->{level};
@{[workers($side->{workers})]}
events { worker_connections 1024; }
http {
$temp
    access_log off;
    keepalive_requests 100000000;
    client_max_body_size 100m;
    client_body_buffer_size $buffer;
    $side->{http}
    upstream app {
        server 127.0.0.1:$side->{app};
        keepalive 32;
        keepalive_requests 100000000;
    }
    server {
        listen 127.0.0.1:$t->{port}@{[$side->{workers} > 1
            ? ' reuseport' : '']};
        server_name localhost;
        $side->{server}
        location / {
            $side->{location}
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass http://app;
        }
        location \@app {
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass http://app;
        }
    }
}
END
    $text =~ s/%d/$t->{dir}/g;
    return $text;
}

# The application of all sides: it answers 200 to whatever comes.

sub start_app {
    return $app if $app;
    my $port = port();
    my $t = Receiver->new(level => 'error');
    push @running, $t;
    $t->{port} = $port;
    my $user = $> == 0 ? 'user www-data;' : '';
    $t->run(<<"END");
$user
pid $t->{dir}/nginx.pid;
error_log $t->{dir}/error.log error;
worker_processes 1;
events { worker_connections 1024; }
http {
    client_body_temp_path $t->{dir}/tmp-body;
    access_log off;
    keepalive_requests 100000000;
    client_max_body_size 100m;
    client_body_buffer_size 8m;
    server { listen 127.0.0.1:$port; location / { return 200 ok; } }
}
END
    $app = $port;
    return $app;
}

sub side {
    my ($name, %given) = @_;
    my %side = (
        name     => $name,
        workers  => 1,
        level    => 'error',
        uri      => '/event',
        main     => '',
        http     => '',
        server   => '',
        location => '',
        extra    => [],
        %given
    );
    $side{app} ||= start_app();
    my $t = Receiver->new(
        level   => 'error',
        workers => $side{workers},
        env     => {%malloc, %{ $side{env} || {} }}
    );
    push @running, $t;
    $side{nginx} = $t;
    $side{prepare}->("$t->{dir}") if $side{prepare};
    $t->run(conf($t, \%side));
    return \%side;
}

# A side with the module, as a plain one but for its lines; "state" is a URI.

sub hook_side {
    my ($name, %side) = @_;
    my $zone = $side{zone} || '4m';
    my $key  = $side{key}  || '$server_name$uri';
    return side(
        $name,
        module => 1,
        %side,
        http => "asana_hook_zone $key zone=hooks:$zone "
            . 'state=' . ($side{state} || '%d/state') . ' '
            . ($side{parameters} || '') . ';' . ($side{http} || ''),
        location => 'asana_hook hooks; asana_hook_enroll open;'
            . ($side{location} || '')
    );
}

sub secret { my ($n) = @_; return sprintf 'bench-%026d', $n || 1 }

sub enroll {
    my ($side, $secret) = @_;
    $side->{nginx}->handshake($side->{uri}, $secret || secret(1))->{status}
        == 200
        or croak "$side->{name}: no handshake";
    return $side;
}

sub body {
    my ($size) = @_;
    my $text = '{"events":[' . '{"action":"changed"},' x ($size / 21);
    return substr($text, 0, $size - 2) . ']}';
}

# A script for wrk, as a file of the side.

sub use_script {
    my ($text, @sides) = @_;
    for my $side (@sides) {
        $side->{nginx}->write_file('wrk.lua', $text);
        $side->{script} = "$side->{nginx}{dir}/wrk.lua";
    }
    return;
}

sub script {
    my ($method, $body, %header) = @_;
    return join "\n", "wrk.method = '$method'", "wrk.body = [[$body]]",
        (map {"wrk.headers['$_'] = '$header{$_}'"} sort keys %header), '';
}

sub event {
    my ($size, $secret) = @_;
    my $body = body($size);
    return script('POST', $body,
        'X-Hook-Signature' =>
            hmac_sha256_hex($body, $secret || secret(1)));
}

# CPU time of the workers, and of what belongs to them, in nanoseconds.

sub cpu {
    my ($side) = @_;
    my $sum = 0;
    $side->{pids} ||= [$side->{nginx}->workers];
    for my $pid (@{ $side->{pids} }, @{ $side->{extra} }) {
        for my $file (glob "/proc/$pid/task/*/schedstat") {
            open my $fh, '<', $file or next;
            my $line = <$fh>;
            close $fh;
            $sum += (split ' ', $line)[0] if $line;
        }
    }
    return $sum;
}

# Nanoseconds of CPU for a request and requests a second, or nothing.  wrk
# counts whole seconds, so it is stopped from outside; a signal that comes
# before it is ready is lost, and then it stops by itself.

sub measure {
    my ($side) = @_;
    my $before = cpu($side);
    my $pid = open my $out, '-|', 'wrk', '-t1', "-c$opt{connections}",
        '-d' . int($opt{seconds} + 3), '-s', $side->{script},
        "http://127.0.0.1:$side->{nginx}{port}$side->{uri}"
        or die $!;
    usleep($opt{seconds} * 1e6);
    kill 'INT', $pid;
    my $text = do { local $/ = undef; <$out> };
    close $out;
    my $cpu = cpu($side) - $before;
    my ($bad) = $text =~ /Non-2xx or 3xx responses: (\d+)/;
    my ($n) = $text =~ /(\d+) requests in/;
    my ($rate) = $text =~ m{Requests/sec: +([\d.]+)};
    return if !$n || $text =~ /Socket errors/;
    return if $side->{refuses} ? ($bad || 0) != $n : $bad;
    return ($cpu / $n, $rate);
}

sub restart {
    my ($side) = @_;
    $side->{nginx}->stop;
    $side->{nginx}->start;
    delete $side->{pids};
    $side->{again}->($side) if $side->{again};
    return;
}

sub quantile {
    my ($q, @values) = @_;
    my @sorted = sort { $a <=> $b } @values;
    return $sorted[@sorted * $q];
}

sub compare {
    my ($one, $two) = @_;
    my (@ratios, @one, @two, @rates, @rate);
    my $bad = 0;
    my $start = int($opt{rounds} / $opt{starts}) || 1;
    for my $n (0 .. $opt{rounds} - 1) {
        if ($n % $start == 0) {
            restart($_) for grep { $n } $one, $two;
            measure($_) for $one, $two;
        }
        my (@o, @w);
        if (rand > 0.5) { @o = measure($one); @w = measure($two) }
        else            { @w = measure($two); @o = measure($one) }
        if (!@o || !@w) { $bad++; next }
        push @ratios, $w[0] / $o[0];
        push @rates,  $w[1] / $o[1];
        push @rate,   $w[1];
        push @one,    $o[0];
        push @two,    $w[0];
    }
    return if !@ratios;
    return {
        ratio => quantile(0.5,  @ratios),
        low   => quantile(0.25, @ratios),
        high  => quantile(0.75, @ratios),
        one   => quantile(0.5,  @one) / 1000,
        two   => quantile(0.5,  @two) / 1000,
        floor => quantile(0.2,  @two) / quantile(0.2, @one),
        rates => quantile(0.5,  @rates),
        rate  => quantile(0.5,  @rate),
        n     => scalar @ratios,
        bad   => $bad
    };
}

# Lines of a table: on the terminal, and with --data as fields of a file.

sub record {
    my (@fields) = @_;
    return if !$opt{data};
    open my $fh, '>>', $opt{data} or die "$opt{data}: $!\n";
    print {$fh} join("\t", @fields), "\n";
    close $fh or die "$opt{data}: $!\n";
    return;
}

my $group = '';

sub heading {
    my ($id, $text) = @_;
    $group = $id;
    printf "%s\n%-26s %9s %9s %7s %13s %9s %9s %6s %3s\n", $text, '',
        'us', 'us', 'CPU', 'quartiles', 'requests', 'requests', 'rounds',
        'bad';
    printf "%-26s %9s %9s %7s %13s %9s %9s\n", '', 'first', 'second',
        'ratio', '', 'a second', 'ratio';
    record('heading', $id, $text);
    return;
}

# A goal: "CPU <= 1.10" or "rate >= 0.95".

sub goal {
    my ($c, $goal) = @_;
    return '' if !$goal;
    my ($what, $op, $limit) = split ' ', $goal;
    my $value = $what eq 'CPU' ? $c->{ratio} : $c->{rates};
    my $met = $op eq '<=' ? $value <= $limit : $value >= $limit;
    return $met ? 'met' : 'missed';
}

sub show {
    my ($one, $two, $goal, $label) = @_;
    $label ||= "$one->{name} : $two->{name}";
    local $| = 1;
    my $c = compare($one, $two);
    if (!$c) {
        printf "%-26s every round had a wrong answer, or none\n", $label;
        return;
    }
    my $outcome = goal($c, $goal);
    printf "%-26s %9.2f %9.2f %7.3f %6.3f-%.3f %9.0f %9.3f %6d %3d%s\n",
        $label, @$c{qw(one two ratio low high rate rates n bad)},
        $goal ? "  $goal: $outcome" : '';
    record('row', $group, $label,
        map({ sprintf '%.4g', $_ } @$c{qw(one two ratio low high)}),
        sprintf('%.0f', $c->{rate}),
        sprintf('%.3f', $c->{rates}),
        @$c{qw(n bad)}, $goal || '', $outcome);
    return $c;
}

# The method: a side against itself, which is to give 1.

sub self_check {
    my ($one, $again) = @_;
    my $c = show($one, $again, undef, "$one->{name} : itself") or return;
    if ($c->{ratio} < 0.98 || $c->{ratio} > 1.02) {
        printf "%-26s outside 0.98 .. 1.02: the machine is too noisy now,\n"
            . "%-26s this table is worth as much as that\n", '', '';
        record('noise', $group, sprintf '%.3f', $c->{ratio});
    }
    return;
}

sub stop {
    for my $t (splice @running) {
        $t->stop if $t->master;
    }
    $app = undef;
    return;
}

1;
