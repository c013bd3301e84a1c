#!/bin/sh
# A folder of the shape of an unpacked Kafka 3.9.1, made of the jars that `make` fetches, for where its archive cannot be
# downloaded: the walk-through of docs/deploy-ec2.md runs the archive's commands on it.
#
#     sh deploy/kafka_lookalike.sh ~/kafka_2.13-3.9.1
#
# The same Java classes with the same arguments; the scripts in bin/ are stand-ins written for this, not Apache's.
set -eu
project=$(cd "$(dirname "$0")/.." && pwd)
target=$1
[ ! -e "$target" ] || { echo "$target is there already; it must be a new folder" >&2; exit 2; }
mkdir -p "$target/bin" "$target/libs" "$target/logs" "$target/config"
ln -s "$project"/.kafka/libs/*.jar "$target/libs/"

for stream in server tools; do
    cat >"$target/config/$stream-log4j.properties" <<END
log4j.rootLogger=$([ $stream = server ] && echo INFO || echo WARN), out
log4j.appender.out=org.apache.log4j.ConsoleAppender
log4j.appender.out.Target=System.$([ $stream = server ] && echo out || echo err)
log4j.appender.out.layout=org.apache.log4j.PatternLayout
log4j.appender.out.layout.ConversionPattern=[%d] %p %m (%c)%n
END
done

command_of() { # $1: name in bin/, $2: class, $3: server or tools, $4: its log, of a server
    cat >"$target/bin/$1" <<END
#!/bin/sh
home=\$(cd "\$(dirname "\$0")/.." && pwd)
if [ "\${1:-}" = -daemon ]; then
    shift
    nohup "\$0" "\$@" >"\$home/logs/$4" 2>&1 </dev/null &
    exit 0
fi
exec java \${KAFKA_HEAP_OPTS:--Xmx1G -Xms1G} \${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseG1GC} \\
    -Dlog4j.configuration="file:\$home/config/$3-log4j.properties" -cp "\$home/libs/*" $2 "\$@"
END
    chmod +x "$target/bin/$1"
}
command_of zookeeper-server-start.sh org.apache.zookeeper.server.quorum.QuorumPeerMain server zookeeper.out
command_of kafka-server-start.sh kafka.Kafka server kafkaServer.out
command_of kafka-topics.sh org.apache.kafka.tools.TopicCommand tools tools.out
command_of kafka-console-consumer.sh org.apache.kafka.tools.consumer.ConsoleConsumer tools tools.out
command_of kafka-consumer-groups.sh org.apache.kafka.tools.consumer.group.ConsumerGroupCommand tools tools.out

for server in "kafka-server-stop.sh kafka.Kafka" "zookeeper-server-stop.sh QuorumPeerMain"; do
    cat >"$target/bin/${server% *}" <<END
#!/bin/sh
pids=\$(ps ax -o pid,args | awk '/[j]ava .*${server#* } / {print \$1}')
[ -n "\$pids" ] || { echo "No ${server#* } to stop"; exit 1; }
kill \$pids
END
    chmod +x "$target/bin/${server% *}"
done
echo "made $target from the jars of $project/.kafka/libs"
