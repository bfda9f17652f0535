#!/bin/bash
# What Spark on Kubernetes asks of an image: `driver …` submits in client mode, `executor` joins the driver named in the
# environment, and anything else runs as it is. Spark sets every variable read here (Spark 4, BasicExecutorFeatureStep and
# BasicDriverFeatureStep). Writes no file, so the root file system may be read-only.
set -euo pipefail

case "${1:-}" in
  driver)
    shift
    command=("${SPARK_HOME}/bin/spark-submit"
      --conf "spark.driver.bindAddress=${SPARK_DRIVER_BIND_ADDRESS}" --deploy-mode client "$@")
    ;;
  executor)
    options=()
    while read -r name; do
      options+=("${!name}")
    done < <(compgen -e SPARK_JAVA_OPT_ | sort -t_ -k4 -n)
    command=("${JAVA_HOME}/bin/java" ${options[@]+"${options[@]}"}
      "-Xms${SPARK_EXECUTOR_MEMORY}" "-Xmx${SPARK_EXECUTOR_MEMORY}"
      -cp "${SPARK_CONF_DIR:-${SPARK_HOME}/conf}:${SPARK_CLASSPATH:+${SPARK_CLASSPATH}:}${SPARK_HOME}/jars/*"
      org.apache.spark.scheduler.cluster.k8s.KubernetesExecutorBackend
      --driver-url "${SPARK_DRIVER_URL}" --executor-id "${SPARK_EXECUTOR_ID}" --cores "${SPARK_EXECUTOR_CORES}"
      --app-id "${SPARK_APPLICATION_ID}" --hostname "${SPARK_EXECUTOR_POD_IP}"
      --resourceProfileId "${SPARK_RESOURCE_PROFILE_ID}" --podName "${SPARK_EXECUTOR_POD_NAME}")
    ;;
  *)
    command=("$@")
    ;;
esac

# tini reaps what Python workers leave behind and hands SIGTERM on.
exec tini -s -- "${command[@]}"
