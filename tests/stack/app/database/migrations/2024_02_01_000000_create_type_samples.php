<?php

use Illuminate\Database\Migrations\Migration;
use Illuminate\Support\Facades\DB;
use Illuminate\Support\Facades\Schema;

/** One column of every type a backup can get wrong. */
return new class extends Migration
{
    public function up(): void
    {
        DB::unprepared(<<<'SQL'
            CREATE TABLE type_samples (
              id           INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
              c_bool       TINYINT(1) NULL,
              c_bigint     BIGINT UNSIGNED NULL,
              c_float      FLOAT NULL,
              c_double     DOUBLE NULL,
              c_decimal    DECIMAL(30,10) NULL,
              c_bit        BIT(12) NULL,
              c_date       DATE NULL,
              c_time       TIME(3) NULL,
              c_year       YEAR NULL,
              c_datetime   DATETIME(6) NULL,
              c_timestamp  TIMESTAMP(3) NULL,
              c_char       CHAR(8) CHARACTER SET latin1 NULL,
              c_varchar    VARCHAR(190) NULL,
              c_bin_text   VARCHAR(60) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
              c_varbinary  VARBINARY(64) NULL,
              c_blob       BLOB NULL,
              c_mediumblob MEDIUMBLOB NULL,
              c_longtext   LONGTEXT NULL,
              c_json       JSON NULL,
              c_enum       ENUM('a','b','it''s') NULL,
              c_set        SET('red','green','blue') NULL,
              c_point      POINT NULL,
              UNIQUE KEY uq_bin_text (c_bin_text)
            ) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci
            SQL);
    }

    public function down(): void
    {
        Schema::dropIfExists('type_samples');
    }
};
